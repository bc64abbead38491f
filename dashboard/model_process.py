"""Models opened for prediction: a record in, a child process that answers out. No TensorFlow in this process."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from dashboard import source
from dashboard.source import Address
from tljobs.records import ModelRecord
from tljobs.serving.child import PredictChild

if TYPE_CHECKING:
    from tljobs.results import PredictionRow

MAX_OPEN_MODELS = 2  # each holds a TensorFlow process of its own
PREDICT_TIMEOUT_S = 30.0  # without the start of the child, which imports TensorFlow
MAX_KEPT_PREDICTIONS = 512


class OpenModel:
    """A child process with a model, and the folder it was opened from. Sessions share it: calls wait in turn."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str]) -> None:
        self._folder = folder
        self._child = PredictChild(Path(folder.name))

    def predict(self, data: bytes) -> PredictionRow:
        """The labels of one image file. Raises TljobsError when the child dies or takes too long."""
        return self._child.predict(data, PREDICT_TIMEOUT_S)

    def close(self) -> None:
        """Ends the child and removes the folder."""
        self._child.close()
        self._folder.cleanup()


def predict(at: Address, record: ModelRecord, data: bytes) -> PredictionRow:
    """The labels of one image file, by the model of `record`; the same question is answered from memory."""
    return _predict(at, record.file.sha256, hashlib.sha256(data).hexdigest(), record, data)


@st.cache_data(max_entries=MAX_KEPT_PREDICTIONS, show_spinner=False)
def _predict(at: Address, model_sha256: str, image_sha256: str, _record: ModelRecord, _data: bytes) -> PredictionRow:
    return _opened(at, model_sha256, _record).predict(_data)


@st.cache_resource(max_entries=MAX_OPEN_MODELS, on_release=OpenModel.close, show_spinner="Opening the model…")
def _opened(at: Address, model_sha256: str, _record: ModelRecord) -> OpenModel:
    return OpenModel(source.fetch_model(at, _record))
