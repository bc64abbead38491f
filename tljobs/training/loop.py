"""The training loop, as one sentence: for each phase, for each epoch, for each batch: step, measure, maybe save, maybe
stop; then validate. It knows workers, but not Ray; it runs in a Ray Train worker and in a search's trial alike.

In: a run reserved in the store. Out: checkpoints, metrics, events, and the validation probabilities of the best
checkpoint, all in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import safetensors.numpy

from tljobs import layout
from tljobs.backbones.dropout import set_batch_slice
from tljobs.backbones.network import CutNetwork, Network, build_network, check_input_range, cut_network
from tljobs.data.feed import EvalFeed, TrainFeed
from tljobs.errors import TljobsError
from tljobs.records import CheckpointCommit, DatasetManifest, EpochRow, FileInfo, PhasePlan, Position, StepRow
from tljobs.runs import run_journal
from tljobs.specs import TrainSpec
from tljobs.store import Store
from tljobs.training import checkpoint
from tljobs.training.evaluating import Validation, Validator
from tljobs.training.metrics import Best, LoopState, check_finite
from tljobs.training.objective import Objective, objective
from tljobs.training.plan import Phase, TrainingPlan, make_plan, start_of
from tljobs.training.recorder import Recorder
from tljobs.training.schedule import learning_rate
from tljobs.training.step import StepOutput, SumOverWorkers, TrainStep
from tljobs.training.workers import StopFlag, Watchdog, Workers

EVAL_BATCH = 32  # images; the same as in serving, so that the same kernels compute


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and at which step (of the best checkpoint when trained)."""

    status: Literal["trained", "stopped"]
    step: int
    model_file: FileInfo | None = None


@dataclass
class _Session:
    """What stays the same during an attempt."""

    spec: TrainSpec
    store: Store
    run: str
    plan: TrainingPlan
    workers: Workers
    attempt: int
    network: Network
    objective: Objective
    train_feed: TrainFeed
    val_feed: EvalFeed
    validate: Validator
    sum_over_workers: SumOverWorkers
    recorder: Recorder
    stop: StopFlag | None
    watchdog: Watchdog
    on_epoch: Callable[[EpochRow], None]


def run_attempt(
    spec: TrainSpec,
    store: Store,
    manifest: DatasetManifest,
    run: str,
    workers: Workers,
    *,
    on_epoch: Callable[[EpochRow], None] = lambda row: None,
    export: Callable[[Network], FileInfo | None] = lambda network: None,
) -> Outcome:
    """One attempt at a run, from its newest good checkpoint to the end or to a stop. Every worker calls it.

    `on_epoch` is told every epoch on every worker; `export` gets the network with the best variables on rank 0.
    """
    keras.utils.set_random_seed(spec.seed)
    plan = make_plan(spec, manifest)
    attempt, commit = _begin(store, run, workers)
    session = _open_session(spec, store, manifest, run, plan, workers, attempt, on_epoch)
    try:
        position, state = _restore_model(session, commit)
        stopped = _run_phases(session, position, state, commit)
        if stopped:
            return stopped
        return _finish(session, export)
    finally:
        session.watchdog.close()
        session.recorder.close()
        session.train_feed.close()
        if session.stop:
            session.stop.close()


def _begin(store: Store, run: str, workers: Workers) -> tuple[int, CheckpointCommit | None]:
    """Rank 0 chooses the checkpoint, numbers the attempt and tells the others."""
    told: tuple[int, CheckpointCommit | None, str] = (0, None, "")
    if workers.is_first:
        commit, skipped = checkpoint.newest_good(store, run)
        journal = run_journal(store, run)
        events = journal.read()
        attempt = 1 + max((e.attempt for e in events if e.kind == "attempt_started"), default=0)
        # An error of our code or the user's, not of a lost worker: it would come again.
        error = events[-1].data["error"] if events and events[-1].kind == "attempt_failed" else ""
        step = commit.position.step if commit else 0
        data = {"workers": workers.place.world_size, "skipped_checkpoints": skipped}
        if not error:
            journal.append("attempt_started", attempt=attempt, step=step, data=data)
        told = attempt, commit, error
    attempt, commit, error = workers.broadcast_from_rank_zero(told)
    if error:
        raise TljobsError("training failed", run, error)
    return attempt, commit


def _open_session(
    spec: TrainSpec,
    store: Store,
    manifest: DatasetManifest,
    run: str,
    plan: TrainingPlan,
    workers: Workers,
    attempt: int,
    on_epoch: Callable[[EpochRow], None],
) -> _Session:
    network = build_network(
        backbone=spec.backbone,
        weights=spec.weights,
        image_size=plan.image_size,
        classes=len(manifest.classes),
        head=spec.head,
        dropout=spec.dropout,
        seed=spec.seed,
    )
    local_batch = spec.global_batch // workers.place.world_size
    set_batch_slice(network.model, spec.global_batch, local_batch * workers.place.rank)
    train_feed = TrainFeed(
        store,
        manifest,
        image_size=plan.image_size,
        global_batch=spec.global_batch,
        seed=spec.seed,
        augment=spec.augment,
        place=workers.place,
        keep_pixels=spec.keep_pixels,
    )
    val_feed = EvalFeed(store, manifest, "val", image_size=plan.image_size, batch=EVAL_BATCH, place=workers.place)
    sum_over_workers = SumOverWorkers(workers.strategy)
    goal = objective(manifest.task, len(manifest.classes), spec.label_smoothing)
    return _Session(
        spec=spec,
        store=store,
        run=run,
        plan=plan,
        workers=workers,
        attempt=attempt,
        network=network,
        objective=goal,
        train_feed=train_feed,
        val_feed=val_feed,
        validate=Validator(network, val_feed, sum_over_workers, goal),
        sum_over_workers=sum_over_workers,
        recorder=Recorder(store, run, attempt, writes=workers.is_first),
        stop=StopFlag(store, run, attempt) if workers.is_first else None,
        watchdog=Watchdog(),
        on_epoch=on_epoch,
    )


def _restore_model(session: _Session, commit: CheckpointCommit | None) -> tuple[Position, LoopState]:
    if commit is None:
        first = next(iter(session.val_feed.batches()))
        check_input_range(session.network, first.pixels)
        return start_of(session.plan), LoopState()
    checkpoint.restore(checkpoint.read_state(session.store, commit), session.network.model.variables)
    return commit.position, LoopState.model_validate(commit.loop_state)


def _run_phases(
    session: _Session, position: Position, state: LoopState, commit: CheckpointCommit | None
) -> Outcome | None:
    """Returns an outcome only when asked to stop."""
    notes: tuple[str, ...] = (session.train_feed.note,)  # said once in an attempt
    for number in range(position.phase, len(session.plan.phases)):
        phase = session.plan.phases[number]
        if number > position.phase:
            position = Position(phase=number, epoch=0, epoch_step=0, step=position.step)
            state, commit = state.next_phase(), None
        ended = position.epoch >= phase.epochs or _is_over(session, state)
        if not ended:
            trainer = _PhaseTrainer(session, phase, position, state, commit, notes=notes)
            notes = ()
            stopped = trainer.run()
            if stopped:
                return stopped
            position, state = trainer.position, trainer.state
        if _is_over(session, state):
            _load_best(session, state.phase_best)
    return None


def _is_over(session: _Session, state: LoopState) -> bool:
    """Early stopping: too many epochs of this phase without a better one."""
    return session.spec.patience is not None and state.bad_epochs >= session.spec.patience


class _PhaseTrainer:
    """Trains one phase; `position` and `state` say how far it has come."""

    def __init__(
        self,
        session: _Session,
        phase: Phase,
        position: Position,
        state: LoopState,
        commit: CheckpointCommit | None,
        *,
        notes: tuple[str, ...],
    ) -> None:
        self.position = position
        self.state = state
        self._session = session
        self._phase = phase
        self._cut = cut_network(session.network, phase.depth, session.spec.batchnorm)
        self._optimizer = _optimizer(session.spec)
        self._optimizer.build(self._cut.trainable_variables)
        self._variables = [*session.network.model.variables, *self._optimizer.variables]
        if commit:
            checkpoint.restore(checkpoint.read_state(session.store, commit), self._variables)
        self._step = TrainStep(session.workers.strategy, self._cut, self._optimizer, session.objective)
        session.recorder.phase_started(
            position, phase_plan(session.plan, phase, self._cut), session.network, (*self._cut.notes, *notes)
        )

    def run(self) -> Outcome | None:
        while self.position.epoch < self._phase.epochs and not _is_over(self._session, self.state):
            stopped = self._epoch()
            if stopped:
                return stopped
        return None

    def _epoch(self) -> Outcome | None:
        session, started_s, waited_s = self._session, time.monotonic(), 0.0
        batches = session.train_feed.epoch(self._phase.first_epoch + self.position.epoch, self.position.epoch_step)
        while self.position.epoch_step < session.plan.steps_per_epoch:
            asked_s = time.monotonic()
            pixels, labels, weights = next(batches)
            waited_s += time.monotonic() - asked_s
            output = self._train_on(pixels, labels, weights)
            if output.stop:
                self._save(None)
                return Outcome("stopped", self.position.step)
            every = session.spec.checkpoint_steps
            if every and self.position.step % every == 0 and self.position.epoch_step < session.plan.steps_per_epoch:
                self._save(None)
        self._end_epoch(started_s, waited_s)
        return None

    def _train_on(self, pixels: Any, labels: Any, weights: Any) -> StepOutput:
        session = self._session
        rate = self._rate()
        self._optimizer.learning_rate.assign(rate)
        output = self._step(pixels, labels, weights, stop=bool(session.stop and session.stop.is_set))
        session.watchdog.progress()
        place = self.position
        self.position = place.model_copy(update={"epoch_step": place.epoch_step + 1, "step": place.step + 1})
        check_finite(output.loss, output.grad_norm, self.position.step, self._phase.name)
        sums = self.state.sums.plus(output.loss, output.accuracy, output.images)
        self.state = self.state.model_copy(update={"sums": sums})
        session.recorder.step(
            StepRow(
                step=self.position.step,
                phase=self._phase.name,
                epoch=place.epoch,
                loss=output.loss,
                accuracy=output.accuracy,
                learning_rate=rate,
                grad_norm=output.grad_norm,
            )
        )
        return output

    def _end_epoch(self, started_s: float, waited_s: float) -> None:
        session, sums, place = self._session, self.state.sums, self.position
        validation = session.validate()
        session.watchdog.progress()
        epoch = Best(
            step=place.step, attempt=session.attempt, val_accuracy=validation.accuracy, val_loss=validation.loss
        )
        row = EpochRow(
            phase=self._phase.name,
            epoch=place.epoch,
            step=place.step,
            images=round(sums.images),
            train_loss=sums.mean_loss,
            train_accuracy=sums.accuracy,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            learning_rate=self._rate(),
            wall_s=time.monotonic() - started_s,
            wait_s=waited_s,
        )
        session.recorder.epoch(row)
        self.state = self.state.after_epoch(epoch, session.spec.monitor)
        self.position = Position(phase=place.phase, epoch=place.epoch + 1, epoch_step=0, step=place.step)
        self._save(epoch)
        session.on_epoch(row)

    def _rate(self) -> float:
        spec, per_epoch = self._session.spec, self._session.plan.steps_per_epoch
        step = self.position.epoch * per_epoch + self.position.epoch_step
        steps = self._phase.epochs * per_epoch
        return learning_rate(step, steps, self._phase.learning_rate, spec.schedule, spec.warmup_steps)

    def _save(self, epoch: Best | None) -> None:
        """A checkpoint here and now: metrics first, then the arrays, then the commit, then the event."""
        session, place = self._session, self._session.workers.place
        digest = checkpoint.check_agreement(self._variables, place.rank, place.world_size, session.sum_over_workers)
        if not session.workers.is_first:
            return
        session.recorder.flush(self.position.step)
        commit = checkpoint.save(
            session.store,
            session.run,
            session.attempt,
            self.position,
            self._variables,
            variables_sha256=digest,
            state=self.state,
            epoch=epoch,
        )
        session.recorder.checkpoint(commit, self._phase.name)
        best = [(b.step, b.attempt) if b else None for b in (self.state.best, self.state.phase_best)]
        checkpoint.delete_old(session.store, session.run, best)
        session.watchdog.progress()


def phase_plan(plan: TrainingPlan, phase: Phase, cut: CutNetwork) -> PhasePlan:
    return PhasePlan(
        name=phase.name,
        depth=phase.depth,
        epochs=phase.epochs,
        steps=phase.epochs * plan.steps_per_epoch,
        learning_rate=phase.learning_rate,
        trainable_parameters=cut.trainable_parameters,
        frozen_parameters=cut.frozen_parameters,
    )


def _finish(session: _Session, export: Callable[[Network], FileInfo | None]) -> Outcome:
    """Loads the best checkpoint and leaves this worker's validation probabilities for the replay of the model."""
    _wait_for_all(session)
    commit = checkpoint.best(session.store, session.run)
    checkpoint.restore(checkpoint.read_state(session.store, commit), session.network.model.variables)
    result = session.validate()
    write_own_validation(session.store, session.run, session.workers.place.rank, result)
    session.watchdog.progress()
    file = export(session.network) if session.workers.is_first else None
    _wait_for_all(session)
    return Outcome("trained", commit.position.step, file)


def write_own_validation(store: Store, run: str, rank: int, result: Validation) -> None:
    data = safetensors.numpy.save({"positions": result.positions, "probabilities": result.probabilities})
    store.put(layout.run_own_validation(run, rank), data)


def _wait_for_all(session: _Session) -> None:
    """What rank 0 wrote before is there for the others; what the others wrote before is there for rank 0."""
    session.sum_over_workers(np.ones(1))


def _load_best(session: _Session, best: Best | None) -> None:
    _wait_for_all(session)
    if best:
        commit = checkpoint.read_commit(session.store, session.run, best.step, best.attempt)
        checkpoint.restore(checkpoint.read_state(session.store, commit), session.network.model.variables)


def _optimizer(spec: TrainSpec) -> keras.optimizers.Optimizer:
    """The rate is set before each step. Clipping acts on global gradients (see training.step)."""
    # Keras would number unnamed optimizers over the process, and a resume has made fewer of them.
    shared: dict[str, Any] = {"learning_rate": 1e-3, "name": "optimizer", "global_clipnorm": spec.clip_norm}
    if spec.optimizer == "adamw":
        return keras.optimizers.AdamW(weight_decay=spec.weight_decay, **shared)
    if spec.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=0.9, nesterov=True, **shared)
    return keras.optimizers.Adam(**shared)
