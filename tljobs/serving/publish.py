"""From a keras model to a run's published model: the file, then its card, then the record that commits it."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tljobs import layout
from tljobs.errors import NameTaken
from tljobs.records import FileInfo, ModelRecord
from tljobs.runs import run_evaluations
from tljobs.serving.card import model_card
from tljobs.store import Store

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest moment a zip archive can hold


def write_bundle(store: Store, run: str, model: Any) -> FileInfo:
    """Saves a keras model (uint8 pixels -> float32 probabilities) as the run's model file, and says what it is.

    Equal weights give equal bytes, so that an attempt that ended before the model was published can be repeated.
    Raises NameTaken when the run's model is published already.
    """
    if store.exists(layout.run_model_record(run)):
        raise NameTaken("the run has its model already", run, "A model is never replaced; use another run name")
    data = keras_bytes(model)
    key = layout.run_model_file(run)
    store.put(key, data)
    return FileInfo(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def publish_model(store: Store, record: ModelRecord) -> ModelRecord:
    """Writes the model card and then, last, the record. Returns the record as published.

    A record of the same file that an earlier attempt published is returned; another one raises NameTaken.
    """
    store.put(layout.run_model_card(record.run), model_card(record, run_evaluations(store, record.run)).encode())
    key = layout.run_model_record(record.run)
    try:
        store.create(key, record.to_bytes())
    except NameTaken:
        published = ModelRecord.from_bytes(store.read(key), key)
        if published.file != record.file:
            raise
        return published
    return record


def keras_bytes(model: Any) -> bytes:
    """The model as a .keras archive without the moment of saving: equal weights give equal bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        return _without_moments(path.read_bytes())


def _without_moments(data: bytes) -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w") as target:
        for entry in sorted(source.infolist(), key=lambda entry: entry.filename):
            content = source.read(entry)
            if entry.filename == "metadata.json":
                metadata = json.loads(content)
                metadata.pop("date_saved", None)
                content = json.dumps(metadata, sort_keys=True).encode()
            target.writestr(zipfile.ZipInfo(entry.filename, ZIP_EPOCH), content)
    return result.getvalue()
