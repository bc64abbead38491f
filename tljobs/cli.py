"""The command line: parse, call, print. Options come from the specs; the work is in the verbs.

Data goes to stdout, everything else to stderr. A user's mistake ends with one message and its exit code, never with
a traceback (`--debug` shows it).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from tljobs.cli_spec import Preamble, read_preamble, spec_yaml
from tljobs.errors import Stopped, TljobsError, UsageError
from tljobs.progress import Console
from tljobs.results import Result
from tljobs.specs import (
    AuditSpec,
    DoctorSpec,
    EvaluateSpec,
    ExportDatasetSpec,
    ExportSpec,
    PredictSpec,
    PrepareSpec,
    Spec,
    TrainSpec,
    TuneSpec,
)
from tljobs.store import Store, open_store

DEFAULT_STORE = "./tljobs-store"
ALL_FAILED = 7
DOCTOR_DEFAULTS = DoctorSpec()

app = App(
    name="tljobs",
    help="Transfer-learning jobs on a Ray cluster: labelled images in, a tested classifier out.\n\n"
    "    tljobs prepare ./photos --name birds\n    tljobs train birds\n    tljobs predict RUN photo.jpg\n",
    help_format="plaintext",
    result_action="return_value",
    default_parameter=Parameter(negative_iterable=()),
    version_flags=["--version"],
)


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options that every command has."""

    store: Annotated[str, Parameter(help="Folder or s3://bucket/prefix.", env_var="TLJOBS_STORE")] = DEFAULT_STORE
    endpoint_url: Annotated[
        str | None, Parameter(help="Address of an S3-compatible server.", env_var="AWS_ENDPOINT_URL")
    ] = None
    json: Annotated[bool, Parameter(help="One JSON document on stdout.", negative=())] = False
    debug: Annotated[bool, Parameter(help="Show the traceback of an error.", negative=())] = False

    def open(self) -> Store:
        if self.endpoint_url:
            # Ray's workers and Arrow read it there.
            os.environ["AWS_ENDPOINT_URL"] = self.endpoint_url
        return open_store(self.store, self.endpoint_url)


DryRun = Annotated[bool, Parameter(name="--dry-run", help="Print the plan and stop.", negative=())]


@app.command
def prepare(spec: PrepareSpec, *, dry_run: DryRun = False, common: Common = Common()) -> int:
    """Check, split, resize and shuffle labelled images into a dataset.

    tljobs prepare ./photos --name birds
    tljobs prepare s3://bucket/photos --name birds --image-size 160 --split 70/15/15
    tljobs prepare labels.csv --name birds --label-column species --group-by nest
    """
    from tljobs.data.prepare import prepare as verb

    return _print_result(verb(spec, common.open(), Console(), dry_run=dry_run), common)


@app.command
def audit(spec: AuditSpec, *, common: Common = Common()) -> int:
    """Show what prepare noticed about a dataset: duplicates, leakage, imbalance, unusual images.

    tljobs audit birds
    tljobs audit birds --json
    """
    from tljobs.data.audit import audit as verb
    from tljobs.data.audit import audit_text

    report = verb(spec, common.open())
    print(report.model_dump_json() if common.json else audit_text(report))
    return 0


@app.command
def export_dataset(spec: ExportDatasetSpec, *, dry_run: DryRun = False, common: Common = Common()) -> int:
    """Write a dataset as TFRecord files, for programs that read those.

    tljobs export-dataset birds --out ./bird-records
    tljobs export-dataset birds@VERSION --split val --split test --out ./held-out
    """
    from tljobs.data.export import export_dataset as verb

    return _print_result(verb(spec, common.open(), Console(), dry_run=dry_run), common)


@app.command
def train(spec: TrainSpec, *, dry_run: DryRun = False, common: Common = Common()) -> int:
    """Fine-tune a pretrained network on a dataset: the head first, then deeper blocks at a lower rate.

    tljobs train birds
    tljobs train birds --unfreeze 3 --epochs 20 --workers 4
    tljobs train birds --unfreeze head --learning-rate 3e-3
    """
    from tljobs.training.train import train as verb

    return _print_result(verb(spec, common.open(), Console(), dry_run=dry_run), common)


@app.command
def tune(spec: TuneSpec, *, dry_run: DryRun = False, common: Common = Common()) -> int:
    """Search learning rate and unfreeze depth; the best run is evaluated and gets a model.

    tljobs tune birds
    tljobs tune birds --learning-rate 1e-4,1e-3 --unfreeze head,1,2
    tljobs tune birds --learning-rate 1e-5:1e-2 --trials 16 --time-limit 3600
    """
    from tljobs.tuning.job import tune as verb

    return _print_result(verb(spec, common.open(), Console(), dry_run=dry_run), common)


@app.command
def evaluate(spec: EvaluateSpec, *, dry_run: DryRun = False, common: Common = Common()) -> int:
    """Score a run's model on a split, with per-image predictions.

    tljobs evaluate RUN --split test
    """
    from tljobs.evaluation.evaluate import evaluate as verb

    return _print_result(verb(spec, common.open(), Console(), dry_run=dry_run), common)


@app.command
def predict(spec: PredictSpec, *, common: Common = Common()) -> int:
    """Label images with a run's model or an exported one; rows in input order.

    tljobs predict RUN photo.jpg
    tljobs predict RUN ./new-photos --format csv --out labels.csv
    """
    from tljobs.serving.predict import predict as verb
    from tljobs.serving.rows import write_rows

    counts = write_rows(verb(spec, common.open(), Console()), spec, sys.stdout)
    images = sum(counts.values())
    bad = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if status != "ok")
    where = f", written to {spec.out}" if spec.out else ""
    print(f"{images} images{where}" + (f" ({bad})" if bad else ""), file=sys.stderr)
    return 0 if counts.get("ok") else ALL_FAILED


@app.command
def export(spec: ExportSpec, *, dry_run: DryRun = False, common: Common = Common()) -> int:
    """Write a run's model into a folder: network, labels and preprocessing together.

    tljobs export RUN --out ./bird-model
    """
    from tljobs.serving.export import export as verb

    return _print_result(verb(spec, common.open(), Console(), dry_run=dry_run), common)


@app.command
def backbones(*, common: Common = Common()) -> int:
    """List the pretrained networks by name.

    tljobs backbones
    """
    from tljobs.backbones.registry import backbone, backbone_names

    rows = [
        {"backbone": name, "image_size": backbone(name).image_size, "pretrained": backbone(name).pretrained}
        for name in backbone_names()
    ]
    return _print_rows("backbones", rows, common)


@app.command
def datasets(*, common: Common = Common()) -> int:
    """List the datasets in the store, newest first.

    tljobs datasets
    """
    from tljobs.listing import dataset_rows

    return _print_rows("datasets", dataset_rows(common.open()), common)


@app.command
def searches(*, common: Common = Common()) -> int:
    """List the searches in the store, newest first.

    tljobs searches
    """
    from tljobs.listing import search_rows

    return _print_rows("searches", search_rows(common.open()), common)


runs_app = App(
    name="runs",
    help="List, show, stop and resume runs.\n\n    tljobs runs\n    tljobs runs show RUN\n    tljobs runs resume RUN\n",
    help_format="plaintext",
)
app.command(runs_app)


@runs_app.default
def runs_list(*, common: Common = Common()) -> int:
    """List the runs in the store, newest first.

    tljobs runs
    tljobs runs show RUN
    """
    from tljobs.listing import run_rows

    return _print_rows("runs", run_rows(common.open()), common)


@runs_app.command(name="show")
def runs_show(run: str, *, common: Common = Common()) -> int:
    """Show a run: configuration, phases, epochs, scores, history.

    tljobs runs show RUN
    """
    from tljobs.listing import run_details, run_text

    details = run_details(common.open(), run)
    print(json.dumps(details) if common.json else run_text(details))
    return 0


@runs_app.command(name="stop")
def runs_stop(run: str, *, common: Common = Common()) -> int:
    """Ask a running run to save and stop.

    tljobs runs stop RUN
    """
    from tljobs.training.control import request_stop

    request_stop(common.open(), run)
    print(f"Asked {run} to save and stop. Next: tljobs runs resume {run}")
    return 0


@runs_app.command(name="resume")
def runs_resume(run: str, *, common: Common = Common()) -> int:
    """Go on with a stopped, interrupted or failed run from its newest checkpoint.

    tljobs runs resume RUN
    """
    from tljobs.training.train import resume

    return _print_result(resume(common.open(), run, Console()), common)


@app.command
def dashboard(*, port: int = 8501, no_browser: bool = False, common: Common = Common()) -> int:
    """Open the dashboard on this store.

    tljobs dashboard
    tljobs dashboard --store s3://bucket/prefix --port 8600 --no-browser
    """
    try:
        from dashboard.__main__ import launch
    except ImportError as error:
        raise UsageError("the dashboard is not installed", str(error), "pip install 'tljobs[dashboard]'") from error

    return launch(common.open().uri, common.endpoint_url, port, not no_browser)


@app.command
def doctor(spec: DoctorSpec = DOCTOR_DEFAULTS, *, common: Common = Common()) -> int:
    """Can this machine, this cluster and this store do the job? Each line with its fix.

    tljobs doctor
    tljobs doctor --store s3://bucket/prefix --constraints constraints.txt
    """
    from tljobs.doctor import diagnosis_json, diagnosis_text
    from tljobs.doctor import doctor as verb

    diagnosis = verb(spec, common.open())
    print(diagnosis_json(diagnosis) if common.json else diagnosis_text(diagnosis))
    return diagnosis.code


@app.command
def demo(*, photos: str | None = None, common: Common = Common()) -> int:
    """The whole way on real photos: from scratch, head only, two phases, a search, a prediction.

    tljobs demo
    tljobs demo --photos ./my-photos

    Parameters
    ----------
    photos
        flowers, stamps, or a folder of class folders (default: flowers where they can be downloaded, else stamps).
    """
    from tljobs.demo import demo as verb

    return verb(photos, common.open(), Console())


# --------------------------------------------------------------------------------------------------- parse and print

SPECS: dict[str, type[Spec]] = {
    "prepare": PrepareSpec,
    "audit": AuditSpec,
    "export-dataset": ExportDatasetSpec,
    "train": TrainSpec,
    "tune": TuneSpec,
    "evaluate": EvaluateSpec,
    "predict": PredictSpec,
    "export": ExportSpec,
    "doctor": DoctorSpec,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `tljobs` command; exits with the documented code."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code."""
    as_json, debug = "--json" in arguments, "--debug" in arguments
    try:
        preamble = read_preamble(arguments, SPECS)
        if preamble.print_spec:
            print(_spec_text(preamble), end="")
            return 0
        app.config = preamble.config
        result = app(preamble.arguments, exit_on_error=False, print_error=False)
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _fail(_usage_error(error), as_json, debug)
    except TljobsError as error:
        return _fail(error, as_json, debug)
    except KeyboardInterrupt:
        return _fail(Stopped("interrupted"), as_json, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        unexpected = TljobsError(f"unexpected failure: {type(error).__name__}", "", f"{error} (--debug shows more)")
        return _fail(unexpected, as_json, debug)


def _spec_text(preamble: Preamble) -> str:
    """The spec as YAML: as asked, or its defaults while required fields are missing."""
    assert preamble.spec is not None
    app.config = preamble.config
    try:
        _, bound, _ = app.parse_args(preamble.arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        if type(error).__name__ != "MissingArgumentError":
            raise
        return spec_yaml(preamble.spec, None)
    return spec_yaml(preamble.spec, bound.arguments["spec"])


def _usage_error(error: CycloptsError) -> UsageError:
    """cyclopts' and pydantic's messages as one of ours."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        where = "--" + "-".join(str(part) for part in first["loc"]).replace("_", "-") if first["loc"] else ""
        return UsageError(first["msg"].removeprefix("Value error, "), where, "See --help")
    return UsageError(str(error).strip().rstrip("."), "", "See --help")


def _fail(error: TljobsError, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if as_json:
        content = {"code": error.exit_code, "what": error.what, "where": error.where, "hint": error.hint}
        print(json.dumps({"error": content}))
    else:
        print(f"tljobs: {error}", file=sys.stderr)
    return error.exit_code


def _print_result(result: Result | None, common: Common) -> int:
    if result is None:
        print("Dry run: nothing was done", file=sys.stderr)
        return 0
    if common.json:
        print(result.model_dump_json())
    stream = sys.stderr if common.json else sys.stdout
    print(f"Made {result.made}. Next: {result.next_command}", file=stream)
    return 0


def _print_rows(name: str, rows: list[dict[str, Any]], common: Common) -> int:
    from tljobs.listing import table

    print(json.dumps({name: rows}) if common.json else table(rows, empty=f"no {name} in {common.store}"))
    return 0
