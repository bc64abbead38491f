"""tljobs: transfer-learning jobs on a Ray cluster. The verbs of the command line, as functions of the same specs.

    from tljobs import PrepareSpec, TrainSpec, open_store, prepare, train

    store = open_store("./tljobs-store")
    prepare(PrepareSpec(source="./photos", name="birds"), store)
    result = train(TrainSpec(dataset="birds"), store)

Verbs are resolved when they are used, so that importing tljobs imports no heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tljobs.errors import TljobsError
from tljobs.specs import (
    AuditSpec,
    DoctorSpec,
    EvaluateSpec,
    ExportDatasetSpec,
    ExportSpec,
    PredictSpec,
    PrepareSpec,
    TrainSpec,
    TuneSpec,
)
from tljobs.store import open_store

if TYPE_CHECKING:
    from tljobs.data.audit import audit
    from tljobs.data.export import export_dataset
    from tljobs.data.prepare import prepare
    from tljobs.doctor import doctor
    from tljobs.evaluation.evaluate import evaluate
    from tljobs.serving.export import export
    from tljobs.serving.predict import predict
    from tljobs.training.train import train
    from tljobs.tuning.job import tune

_VERBS = {
    "audit": "tljobs.data.audit",
    "export_dataset": "tljobs.data.export",
    "prepare": "tljobs.data.prepare",
    "train": "tljobs.training.train",
    "tune": "tljobs.tuning.job",
    "evaluate": "tljobs.evaluation.evaluate",
    "predict": "tljobs.serving.predict",
    "export": "tljobs.serving.export",
    "doctor": "tljobs.doctor",
}

__all__ = [
    "AuditSpec",
    "DoctorSpec",
    "EvaluateSpec",
    "ExportDatasetSpec",
    "ExportSpec",
    "PredictSpec",
    "PrepareSpec",
    "TljobsError",
    "TrainSpec",
    "TuneSpec",
    "audit",
    "doctor",
    "evaluate",
    "export",
    "export_dataset",
    "open_store",
    "predict",
    "prepare",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'tljobs' has no attribute {name!r}")
