"""The model as one thing: image bytes in, probabilities of the recorded labels out.

Bytes go through the decoder of `prepare`, the short side and the centre crop that the record names, and the network
file, which takes uint8 pixels and holds everything after them. A file is opened only when its bytes, its labels and its
decoder are those of its record, and only in safe mode: nothing in it is run as Python code.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tljobs import layout
from tljobs.data.decode import DECODER, decode, eval_view
from tljobs.errors import InputRefused, NotFound, TljobsError
from tljobs.evaluation.multi_label import THRESHOLD
from tljobs.records import ModelRecord, classes_digest
from tljobs.results import PredictionRow
from tljobs.runs import open_run, run_model
from tljobs.store import Store

MODEL_FILE = "model.keras"
RECORD_FILE = "model.json"

# Every call of the network has this many rows, padded with black images: another shape may take other kernels, and
# an image's probabilities would depend on its company. 8 rows stay in a CPU's caches: EfficientNetB0 takes 65 ms of CPU
# per image, against 87 ms with 32, and a single image is answered four times sooner.
BATCH_IMAGES = 8


@dataclass(frozen=True)
class ModelBundle:
    """An opened model. `model` is the keras model, uint8 (n, s, s, 3) -> float32 (n, C); s is `record.image_size`."""

    record: ModelRecord
    model: Any
    _run: Callable[[NDArray[np.uint8]], Any]

    def pixels(self, data: bytes) -> NDArray[np.uint8]:
        """The network's view of an image file: uint8 RGB (s, s, 3). Raises BadImage with a reason code."""
        decoded = decode(data, short_side=self.record.stored_short_side, background=self.record.decoder.background)
        return self.view(decoded.pixels)

    @property
    def view_options(self) -> dict[str, Any]:
        """What makes `pixels` of this model, as options of tljobs.data.foreign.network_view."""
        return {
            "short_side": self.record.stored_short_side,
            "crop_size": self.record.crop_size,
            "image_size": self.record.image_size,
            "background": self.record.decoder.background,
        }

    def view(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The network's view, uint8 (s, s, 3), of pixels with the short side that the dataset stores."""
        return eval_view(stored, crop_size=self.record.crop_size, image_size=self.record.image_size)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (n, C), rows in the order of `pixels` uint8 (n, s, s, 3), columns in the order of the labels.

        Raises TljobsError when the network gives values that are no numbers.
        """
        self._check(pixels)
        parts = [self._padded(pixels[first : first + BATCH_IMAGES]) for first in range(0, len(pixels), BATCH_IMAGES)]
        result = np.concatenate(parts) if parts else np.empty((0, len(self.record.classes)), np.float32)
        if not np.isfinite(result).all():
            raise TljobsError("the model gives values that are no numbers", self.record.run, "Train it again")
        return result

    def row(self, name: str, probabilities: NDArray[np.float32], top_k: int) -> PredictionRow:
        """The answer for one image from its probabilities (C,): labels best first, of equal ones the first label.

        Of a multi-label model the label is all labels that apply, best first, with `|` between them ("" when none
        does), and the score that of the first in `top`.
        """
        best = np.argsort(-probabilities, kind="stable")
        top = [(self.record.classes[index], float(probabilities[index])) for index in best[:top_k]]
        if self.record.task == "multi-label":
            applying = [self.record.classes[index] for index in best if probabilities[index] >= THRESHOLD]
            return PredictionRow(input=name, status="ok", label="|".join(applying), score=top[0][1], top=top)
        return PredictionRow(input=name, status="ok", label=top[0][0], score=top[0][1], top=top)

    def _padded(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = np.zeros((BATCH_IMAGES, *pixels.shape[1:]), np.uint8)
        batch[: len(pixels)] = pixels
        return np.asarray(self._run(batch)[: len(pixels)], dtype=np.float32)

    def _check(self, pixels: NDArray[np.uint8]) -> None:
        size = self.record.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise InputRefused(
                f"the model takes uint8 pixels (n, {size}, {size}, 3)", f"got {pixels.dtype} {pixels.shape}"
            )


def open_bundle(store: Store, run: str) -> ModelBundle:
    """The model of a run. Raises NotFound without the run or its model, InputRefused as `open_record` does."""
    try:
        record = run_model(store, run)
    except NotFound:
        open_run(store, run)
        raise
    return open_record(store, record)


def open_record(store: Store, record: ModelRecord) -> ModelBundle:
    """The model that `record` describes, which need not be published yet.

    Raises InputRefused when the labels, the decoder or the file's bytes are not those of the record, or the file
    cannot be opened safely.
    """
    check_record(record, layout.run_model_record(record.run))
    return _open(record, store.read(record.file.key), f"{store.uri}/{record.file.key}")


def open_folder(folder: Path) -> ModelBundle:
    """An exported model: a folder with model.keras and model.json. Raises as `open_bundle` does."""
    if not folder.is_dir():
        raise NotFound("no such model folder", str(folder))
    source = folder / RECORD_FILE
    record = read_record(_read(source), str(source))
    path = folder / MODEL_FILE
    return _open(record, _read(path), str(path))


def read_record(data: bytes, where: str) -> ModelRecord:
    """The record in `data`, checked by `check_record`. Raises InputRefused also when it has no label map."""
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if isinstance(content, dict) and not content.get("classes"):
        raise _no_labels(where)
    record = ModelRecord.from_bytes(data, where)
    check_record(record, where)
    return record


def check_record(record: ModelRecord, where: str) -> None:
    """Raises InputRefused when the label map is missing or changed, or when another decoder made the pixels."""
    if not record.classes:
        raise _no_labels(where)
    if classes_digest(record.classes) != record.classes_sha256:
        raise InputRefused(
            "the labels or their order were changed after training", where, "Restore model.json, or export again"
        )
    if (record.decoder.id, record.decoder.version) != (DECODER.id, DECODER.version):
        raise InputRefused(
            f"the model was trained on images of decoder {record.decoder.id} version {record.decoder.version},"
            f" and this tljobs decodes with {DECODER.id} version {DECODER.version}",
            where,
            f"Use tljobs {record.environment.get('tljobs', 'of that time')}, or prepare the data and train again",
        )


def _open(record: ModelRecord, data: bytes, where: str) -> ModelBundle:
    if len(data) != record.file.size_bytes or hashlib.sha256(data).hexdigest() != record.file.sha256:
        raise InputRefused("the model file is not the one in its record", where, "Fetch or export it again")
    import tensorflow as tf

    model = _load(data, where)
    _check_signature(model, record, where)
    shape = (BATCH_IMAGES, record.image_size, record.image_size, 3)
    signature = [tf.TensorSpec(shape, tf.uint8)]
    # Not `model.predict`: Keras compiles it with XLA where it can, with other rounding than training's evaluation.
    run = tf.function(lambda pixels: model(pixels, training=False), input_signature=signature, jit_compile=False)
    return ModelBundle(record, model, run)


def _load(data: bytes, where: str) -> Any:
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MODEL_FILE)
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, safe_mode=True, compile=False)
        except (ValueError, TypeError, KeyError, OSError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise InputRefused("the model file cannot be opened safely", where, first_line) from error


def _check_signature(model: Any, record: ModelRecord, where: str) -> None:
    size, classes = record.image_size, len(record.classes)
    got = [(str(tensor.dtype), tuple(tensor.shape)) for tensor in (*model.inputs, *model.outputs)]
    if got != [("uint8", (None, size, size, 3)), ("float32", (None, classes))]:
        raise InputRefused(
            f"the network is not uint8 (n, {size}, {size}, 3) -> float32 (n, {classes}) as its record says",
            where,
            f"It is {got}",
        )


def _no_labels(where: str) -> InputRefused:
    return InputRefused("the model has no label map", where, "Export it again from its run")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound("not an exported model: a file is missing", str(path)) from error
    except OSError as error:
        raise NotFound("the model cannot be read", str(path), error.strerror or "") from error
