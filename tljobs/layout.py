"""Where everything lies in the store: every key as a pure function of ids. No other module builds a key.

Keys use '/' and are relative to the store's root. Ids are checked here, so that no label, file name or user's text
can become a path.
"""

from __future__ import annotations

import re

from tljobs.errors import UsageError

ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def checked_id(text: str, what: str = "name") -> str:
    """Returns `text` if it is a valid id, else raises UsageError."""
    if not ID_PATTERN.fullmatch(text):
        raise UsageError(
            f"invalid {what}",
            repr(text),
            "Use 1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
        )
    return text


def datasets_prefix() -> str:
    return "datasets/"


def dataset(name: str, version: str) -> str:
    return f"datasets/{checked_id(name)}/{checked_id(version, 'version')}"


def dataset_manifest(name: str, version: str) -> str:
    return f"{dataset(name, version)}/manifest.json"


def dataset_index(name: str, version: str) -> str:
    return f"{dataset(name, version)}/index.parquet"


def dataset_rejected(name: str, version: str) -> str:
    return f"{dataset(name, version)}/rejected.parquet"


def dataset_audit(name: str, version: str) -> str:
    return f"{dataset(name, version)}/audit.json"


def dataset_shard(name: str, version: str, split: str, index: int, count: int) -> str:
    """Key of shard `index` (from 0) of `count` in `split`."""
    return f"{dataset(name, version)}/shards/{checked_id(split, 'split')}-{index:05}-of-{count:05}.parquet"


def dataset_thumbnails(name: str, version: str, split: str, index: int, count: int) -> str:
    """Key of the thumbnails of the images in that shard, row by row."""
    return f"{dataset(name, version)}/thumbnails/{checked_id(split, 'split')}-{index:05}-of-{count:05}.parquet"


def runs_prefix() -> str:
    return "runs/"


def run(name: str) -> str:
    return f"runs/{checked_id(name, 'run name')}"


def run_record(name: str) -> str:
    return f"{run(name)}/run.json"


def run_events_prefix(name: str) -> str:
    return f"{run(name)}/events/"


def run_event(name: str, seq: int) -> str:
    return f"{run(name)}/events/{seq:06}.json"


def run_heartbeat(name: str) -> str:
    return f"{run(name)}/heartbeat.json"


def run_metrics_prefix(name: str) -> str:
    return f"{run(name)}/metrics/"


def run_metrics_piece(name: str, attempt: int, step: int) -> str:
    """Key of the metrics that `attempt` measured up to and including global step `step`."""
    return f"{run(name)}/metrics/{attempt:03}-{step:08}.json"


def run_checkpoints_prefix(name: str) -> str:
    return f"{run(name)}/checkpoints/"


def run_checkpoint(name: str, step: int, attempt: int) -> str:
    return f"{run(name)}/checkpoints/{step:08}/{attempt:03}"


def run_checkpoint_state(name: str, step: int, attempt: int) -> str:
    return f"{run_checkpoint(name, step, attempt)}/state.safetensors"


def run_checkpoint_commit(name: str, step: int, attempt: int) -> str:
    return f"{run_checkpoint(name, step, attempt)}/commit.json"


def run_evaluation(name: str, evaluation: str) -> str:
    return f"{run(name)}/evaluations/{checked_id(evaluation, 'evaluation')}"


def run_evaluation_report(name: str, evaluation: str) -> str:
    return f"{run_evaluation(name, evaluation)}/report.json"


def run_evaluation_predictions(name: str, evaluation: str) -> str:
    return f"{run_evaluation(name, evaluation)}/predictions.parquet"


def run_model(name: str) -> str:
    return f"{run(name)}/model"


def run_model_record(name: str) -> str:
    return f"{run_model(name)}/model.json"


def run_model_file(name: str) -> str:
    return f"{run_model(name)}/model.keras"


def run_model_card(name: str) -> str:
    return f"{run_model(name)}/README.md"


def run_tensorboard(name: str, attempt: int) -> str:
    """TensorBoard finds event files by the 'tfevents' in their names."""
    return f"{run(name)}/tensorboard/{attempt:03}/events.out.tfevents.{attempt:03}"


def run_own_validation(name: str, rank: int) -> str:
    """Validation probabilities as the training worker `rank` computed them, for the replay of the exported model."""
    return f"{run(name)}/own-validation/{rank:04}.safetensors"


def searches_prefix() -> str:
    return "searches/"


def search(name: str) -> str:
    return f"searches/{checked_id(name, 'search name')}"


def search_record(name: str) -> str:
    return f"{search(name)}/search.json"


def search_events_prefix(name: str) -> str:
    return f"{search(name)}/events/"


def search_event(name: str, seq: int) -> str:
    return f"{search(name)}/events/{seq:06}.json"


def search_trials(name: str) -> str:
    """The result table of a finished search."""
    return f"{search(name)}/trials.parquet"


def draft_pack(token: str, index: int) -> str:
    """Pack `index` (from 0) of the drafts of one preparation; deleted at its end."""
    return f"staging/drafts/{checked_id(token, 'token')}-{index:06}.bin"


def staging(digest: str) -> str:
    """The place of a source that had to be unpacked, by the SHA-256 of what was unpacked."""
    return f"staging/{checked_id(digest, 'digest')}"


def staging_record(digest: str) -> str:
    """Written last: without it, nothing of the unpacked source is used."""
    return f"{staging(digest)}/staged.json"


def staging_pack(digest: str, index: int) -> str:
    """Pack `index` (from 0): the bytes of many files, one after the other."""
    return f"{staging(digest)}/pack-{index:06}.bin"


def staging_index(digest: str, index: int) -> str:
    """The table of the files in pack `index`."""
    return f"{staging(digest)}/pack-{index:06}.parquet"
