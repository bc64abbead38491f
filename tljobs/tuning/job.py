"""`tljobs tune`: the wiring between a request, Ray Tune and trials that are runs.

In: a TuneSpec. Out: a search record, one run per trial, a result table, and the best run evaluated with its model.
An interrupted search goes on where it was: trials are found again by their names.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any

from tljobs import layout
from tljobs.errors import NameTaken, Stopped, TljobsError, TooManyFailures, UsageError
from tljobs.progress import SILENT, Reporter
from tljobs.ray_session import ray_session, ray_storage
from tljobs.records import DatasetManifest, SearchRecord, new_token, now_utc
from tljobs.results import TrialResult, TuneResult
from tljobs.runs import Search, open_dataset, open_run, open_search, run_metrics, search_journal
from tljobs.specs import NOT_PART_OF_REQUEST, TuneSpec
from tljobs.store import Store
from tljobs.training.control import ask_to_stop, stop_on_signal
from tljobs.training.job import finish_in_clean_process
from tljobs.training.reserve import environment
from tljobs.training.resources import worker_resources
from tljobs.training.train import check
from tljobs.tuning.space import Trial, train_spec, trials_of
from tljobs.tuning.table import best_of, score_table, trial_result, trials_parquet
from tljobs.tuning.trial import TrialTask, finish_if_cut_off, run_trial

ASHA_REDUCTION = 3
HOW, NOT_WHAT = NOT_PART_OF_REQUEST, frozenset({"dataset", "concurrent", "time_limit"})


def tune(spec: TuneSpec, store: Store, reporter: Reporter = SILENT, *, dry_run: bool = False) -> TuneResult | None:
    """Runs one search, finds the one of an equal request, or goes on with it.

    Returns None after the printed plan with `dry_run`. Raises Stopped on request, TooManyFailures when no trial
    succeeded.
    """
    manifest = open_dataset(store, spec.dataset)
    trials = trials_of(spec)
    for trial in trials:
        check(train_spec(spec, "check", trial), manifest)
    name = spec.name or f"{manifest.name[:30]}-search-{_request_sha256(spec, manifest)[:8]}"
    found = _find(store, name, spec, manifest)
    if found and found.status == "finished":
        reporter.note(f"This very request is search {name}, finished already")
        return _result(store, name, wall_s=0.0, reused=True)
    reporter.plan("Plan of the search", _plan_rows(spec, manifest, trials, store, found))
    if dry_run:
        return None
    return _search(spec, store, reporter, manifest, trials, name)


def _search(
    spec: TuneSpec, store: Store, reporter: Reporter, manifest: DatasetManifest, trials: tuple[Trial, ...], name: str
) -> TuneResult:
    started_s = time.monotonic()
    sha256 = hashlib.sha256(store.read(layout.dataset_manifest(manifest.name, manifest.version))).hexdigest()
    _reserve(store, name, spec, manifest)
    journal = search_journal(store, name)
    attempt = 1 + sum(event.kind == "attempt_started" for event in journal.read())
    journal.append("attempt_started", attempt=attempt)
    with ray_session(store):
        places = _places(spec, len(trials))
        task = TrialTask(
            spec=spec,
            search=name,
            store=store,
            manifest=manifest,
            manifest_sha256=sha256,
            threads=max(1, int(places.resources["CPU"])),
            deadline_s=time.time() + spec.time_limit if spec.time_limit else None,
        )
        with stop_on_signal(lambda: _ask_all_to_stop(store, name, trials)) as asked:
            _run_trials(task, trials, places, reporter)
        if asked.is_set():
            journal.append("stopped", attempt=attempt)
            raise Stopped("the search was stopped on request", name, "Run the same command again to go on")
        _publish(store, name, task, places, attempt, reporter)
    return _result(store, name, wall_s=time.monotonic() - started_s, reused=False)


# -------------------------------------------------------------------------------------------------------- Ray Tune


@dataclass(frozen=True)
class Places:
    """How many trials run at a time, and what each of them gets."""

    concurrent: int
    resources: dict[str, float]


def _places(spec: TuneSpec, trials: int) -> Places:
    """As many as there are GPUs or CPUs, unless asked for fewer."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    single = worker_resources(nodes, 1, spec.device, can_grow=False)
    unit = "GPU" if "GPU" in single else "CPU"
    total = int(sum(float(node.get(unit, 0)) for node in nodes))
    concurrent = max(1, min(spec.concurrent or total, trials, total))
    return Places(concurrent, worker_resources(nodes, concurrent, spec.device, can_grow=False))


def _run_trials(task: TrialTask, trials: tuple[Trial, ...], places: Places, reporter: Reporter) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    from tljobs.tuning.progress import TrialProgress

    spec = task.spec
    # Before the head phase is over, depths cannot differ: no trial is stopped until one epoch after it.
    grace = min(spec.epochs, spec.head_epochs + 1)
    scheduler: Any = (
        ASHAScheduler(max_t=spec.epochs, grace_period=grace, reduction_factor=ASHA_REDUCTION)
        if spec.asha
        else FIFOScheduler()
    )
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    with ray_storage(task.store, layout.search(task.search)) as storage:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, task=task),
                {key.lower(): value for key, value in places.resources.items()},
            ),
            param_space={"trial": tune.grid_search(list(trials))},
            tune_config=tune.TuneConfig(
                metric="val_accuracy",
                mode="max",
                scheduler=scheduler,
                max_concurrent_trials=places.concurrent,
                reuse_actors=True,  # TensorFlow is imported once per process instead of once per trial
            ),
            run_config=tune.RunConfig(
                name=f"{task.search}-{new_token()[:8]}",
                verbose=0,
                callbacks=[TrialProgress(reporter, len(trials))],
                **storage,
            ),
        )
        results = tuner.fit()
    for result in results:
        metrics = result.metrics or {}
        if result.error is None and metrics.get("done") and "run" in metrics:
            finish_if_cut_off(task.store, task.manifest, metrics["run"])


def _ask_all_to_stop(store: Store, name: str, trials: tuple[Trial, ...]) -> None:
    search_journal(store, name).append("stop_requested", data={"by": "signal"})
    for run in open_search(store, name).trials:
        if run.status == "running":
            ask_to_stop(store, run.name, by="signal")


# --------------------------------------------------------------------------------------------- records and results


def _publish(store: Store, name: str, task: TrialTask, places: Places, attempt: int, reporter: Reporter) -> None:
    """The table, the best run's model, and then the end of the search."""
    rows = _rows(store, name)
    results = [trial for trial, _ in rows]
    best = best_of(rows)
    if best is None:
        raise _no_success(name, [open_run(store, trial.run).failure for trial in results])
    reporter.note(score_table(results))
    reporter.note(f"Best: {best}; evaluating it and exporting its model")
    run = open_run(store, best)
    if "test" not in run.scores:
        trial = next(t for t in trials_of(task.spec) if f"{name}-{t.number:03}" == best)
        spec = train_spec(task.spec, name, trial)
        finish_in_clean_process(store, task.manifest, best, spec, places.resources)
    store.put(layout.search_trials(name), trials_parquet(results))
    search_journal(store, name).append("finished", attempt=attempt, data={"best": best})


def _no_success(name: str, failures: list[dict[str, Any]]) -> TljobsError:
    """A mistake in the request that every trial met, or else too many failures."""
    told = next(filter(None, failures), None)
    if told is None:
        return TooManyFailures("no trial of the search was trained", name, "Raise --time-limit")
    if all(failure.get("code") == UsageError.exit_code for failure in failures):
        return UsageError(told["what"], told["where"], told["hint"])
    return TooManyFailures("no trial of the search succeeded", name, f"The first: {told['what']}. {told['hint']}")


def _rows(store: Store, name: str) -> list[tuple[TrialResult, Any]]:
    runs = open_search(store, name).trials
    metrics = [(run, run_metrics(store, run)[1]) for run in runs]
    return [(trial_result(run, epochs), epochs) for run, epochs in metrics]


def _result(store: Store, name: str, *, wall_s: float, reused: bool) -> TuneResult:
    search = open_search(store, name)
    trials = [trial for trial, _ in _rows(store, name)]
    best = search.best
    scores = open_run(store, best).scores if best else {}
    accuracy = ", ".join(f"{split} accuracy {values['accuracy']:.3f}" for split, values in scores.items())
    return TuneResult(
        search=name,
        status=search.status,
        best=best,
        trials=trials,
        scores=scores,
        wall_s=round(wall_s, 1),
        reused=reused,
        made=f"search {name} in {store.uri}: {len(trials)} trials, best {best}: {accuracy}",
        next_command=f"tljobs predict {best} IMAGE",
    )


def _plan_rows(
    spec: TuneSpec, manifest: DatasetManifest, trials: tuple[Trial, ...], store: Store, found: Search | None
) -> list[tuple[str, str]]:
    rates = ", ".join(f"{rate:.2g}" for rate in sorted({trial.learning_rate for trial in trials}))
    depths = ", ".join(dict.fromkeys(trial.unfreeze for trial in trials))
    counts = ", ".join(f"{info.images} {split}" for split, info in manifest.splits.items() if info.images)
    rows = [
        ("dataset", f"{manifest.name}@{manifest.version}: {counts}, {len(manifest.classes)} classes"),
        ("network", f"{spec.backbone}, weights {spec.weights}, head {spec.head}"),
        ("trials", f"{len(trials)} of up to {spec.epochs} epochs" + (", bad ones stopped early" if spec.asha else "")),
        ("rates", rates),
        ("depths", depths),
        ("prefix", "none: every trial computes the frozen part itself"),
        ("output", f"{store.uri}/{layout.searches_prefix()}"),
    ]
    if found:
        rows.append(("goes on", f"{sum(t.status == 'finished' for t in found.trials)} trials are finished"))
    return rows


def _request_sha256(spec: TuneSpec, manifest: DatasetManifest) -> str:
    text = f"{spec.digest(HOW | NOT_WHAT)} {manifest.name}@{manifest.version}"
    return hashlib.sha256(text.encode()).hexdigest()


def _find(store: Store, name: str, spec: TuneSpec, manifest: DatasetManifest) -> Search | None:
    if name not in store.folders(layout.searches_prefix()):
        return None
    search = open_search(store, name)
    if search.record.request_sha256 != _request_sha256(spec, manifest):
        raise NameTaken("the search name is taken by another request", name, "Choose another --name")
    if search.status == "running":
        raise NameTaken("the search is running right now", name, "See it: tljobs searches")
    return search


def _reserve(store: Store, name: str, spec: TuneSpec, manifest: DatasetManifest) -> None:
    if _find(store, name, spec, manifest):
        return
    record = SearchRecord(
        search=name,
        spec=spec.model_dump(mode="json"),
        request_sha256=_request_sha256(spec, manifest),
        dataset=manifest.name,
        version=manifest.version,
        environment=environment(),
        created_utc=now_utc(),
        token=new_token(),
    )
    store.create(layout.search_record(name), record.to_bytes())
