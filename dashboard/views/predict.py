"""Predictions: a run's model, uploaded images, their labels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import streamlit as st

from dashboard import model_process, source
from dashboard.figures.gallery import NO_LABEL
from dashboard.figures.top_labels import bars, top_labels_chart
from dashboard.source import Address
from dashboard.text import plain
from dashboard.views import messages
from dashboard.views.choose import choose
from tljobs.records import ModelRecord

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

FILE_TYPES = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif"]
PREVIEW_PX = 320
REASONS = {
    "not_an_image": "this file is not an image",
    "empty": "this file is empty",
    "truncated": "the image is cut off",
    "corrupt": "the image is damaged",
    "unsupported": "this kind of image is not supported",
    "too_large": "the image has too many pixels",
    "too_small": "the image is smaller than 8 pixels",
    "too_narrow": "one side of the image is more than 20 times the other",
    "unreadable": "the file cannot be read",
}


@messages.explained
def page() -> None:
    """Draws the page: choose a model, upload images, read labels."""
    st.title("Predict", anchor=False)
    at = source.address()
    name = choose("Model of run", source.runs_with_model(at), "run")
    if name is None:
        st.info("There is no finished run with a model in this store yet.")
        return
    record = source.model(at, name)
    _describe(record)
    files = st.file_uploader("Images", type=FILE_TYPES, accept_multiple_files=True, key="images")
    for index, file in enumerate(files or []):
        _prediction(at, record, file, index)


def _describe(record: ModelRecord) -> None:
    labels = ", ".join(record.classes[:12]) + (", …" if len(record.classes) > 12 else "")
    accuracy = record.scores.get("accuracy")
    parts = [
        record.backbone,
        f"trained on {record.dataset}@{record.version}",
        f"{len(record.classes)} labels: {labels}",
        *([f"accuracy {accuracy:.1%}"] if accuracy is not None else []),
    ]
    st.caption(plain(" · ".join(parts)))


@messages.explained
def _prediction(at: Address, record: ModelRecord, file: UploadedFile, index: int) -> None:
    data = file.getvalue()
    with st.spinner("Asking the model…"):
        row = model_process.predict(at, record, data)
    with st.container(border=True, key=f"prediction-{index}"):
        picture, answer = st.columns([1, 2], gap="large")
        if row.status != "ok":
            picture.text(file.name)
            reason = REASONS.get(row.status, row.status)
            answer.warning(f"{plain(reason)} ({plain(row.status)})", icon=":material/warning:")
            return
        # Only after the decoder, in its own process, has accepted the bytes.
        picture.image(_preview(data), alt=file.name, width=PREVIEW_PX)
        picture.text(file.name)
        if row.label is not None and row.score is not None:
            # A model of several labels per image may find none; then the score is of a class that does not apply.
            score = f"{row.score:.1%}" if row.label else f"highest: {row.score:.1%}"
            answer.metric("Label", plain(row.label or NO_LABEL), score, delta_color="off", delta_arrow="off")
        items = bars(row.top)
        answer.altair_chart(top_labels_chart(items), key=f"top-{index}", alt="Most probable labels")


def _preview(data: bytes) -> bytes:
    """The image upright and small, as a PNG that every browser shows."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (2 * PREVIEW_PX, 2 * PREVIEW_PX))
        upright = ImageOps.exif_transpose(image)
        upright.thumbnail((PREVIEW_PX, PREVIEW_PX))
        buffer = io.BytesIO()
        upright.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
