"""Labels for many images: a model and names of files in, one row per file out, in the order of the inputs.

Files are read by threads and decoded in processes of their own, a bounded number ahead of the network; nothing grows
with the number of images but the list of their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tljobs.data.decode import BadImage
from tljobs.errors import NotFound
from tljobs.layout import ID_PATTERN
from tljobs.progress import SILENT, Reporter
from tljobs.results import PredictionRow
from tljobs.serving.bundle import BATCH_IMAGES, RECORD_FILE, ModelBundle, open_bundle, open_folder
from tljobs.serving.inputs import InputFile, find_inputs
from tljobs.serving.lookahead import chunks, decode_threads, map_ahead
from tljobs.serving.rows import check_output
from tljobs.serving.views import IsolatedViews
from tljobs.specs import PredictSpec
from tljobs.store import Store

LOOK_AHEAD_IMAGES = 4 * BATCH_IMAGES  # read and decoded while the network works

# What a file became: its pixels for the network, or its row if it is no image.
Loaded = tuple[InputFile, NDArray[np.uint8] | PredictionRow]


def predict(spec: PredictSpec, store: Store, reporter: Reporter = SILENT) -> Iterator[PredictionRow]:
    """One row per input file, in the order of `spec.inputs`, computed as the rows are taken.

    A file that is no good image gives a row whose `status` is the decoder's reason code. Before any work: raises
    NotFound for a missing input, run or model folder, InputRefused for a model or inputs that cannot be used, and
    UsageError for an output that cannot be written.
    """
    check_output(spec)
    files = find_inputs(spec.inputs)
    bundle = open_model(spec.model, store)
    reporter.plan(
        f"predict with {spec.model}",
        [
            ("images", str(len(files))),
            ("classes", str(len(bundle.record.classes))),
            ("trained on", f"{bundle.record.dataset}@{bundle.record.version}"),
            ("output", f"{spec.format} to {spec.out or 'stdout'}"),
        ],
    )
    return predict_files(bundle, files, spec.top_k, reporter)


def open_model(model: str, store: Store) -> ModelBundle:
    """MODEL of the command line: a run of the store or, where there is no such run, the folder of an exported model."""
    if not ID_PATTERN.fullmatch(model):
        return open_folder(Path(model))
    try:
        return open_bundle(store, model)
    except NotFound:
        if Path(model, RECORD_FILE).is_file():
            return open_folder(Path(model))
        raise


def predict_files(
    bundle: ModelBundle, files: list[InputFile], top_k: int, reporter: Reporter
) -> Iterator[PredictionRow]:
    """One row per file, in order; at most LOOK_AHEAD_IMAGES decoded images are in memory."""
    done = 0
    with IsolatedViews(bundle.view_options, len(files)) as views, ThreadPoolExecutor(decode_threads()) as pool:
        loaded = map_ahead(pool, lambda file: _load(views, file), files, LOOK_AHEAD_IMAGES)
        for chunk in chunks(loaded, BATCH_IMAGES):
            yield from _rows(bundle, chunk, top_k)
            done += len(chunk)
            reporter.progress("predict", done, len(files))


def _load(views: IsolatedViews, file: InputFile) -> Loaded:
    try:
        return file, views.view(file.read())
    except BadImage as error:
        return file, PredictionRow(input=file.name, status=error.reason)


def _rows(bundle: ModelBundle, chunk: list[Loaded], top_k: int) -> Iterator[PredictionRow]:
    views = [view for _, view in chunk if not isinstance(view, PredictionRow)]
    answers = iter(bundle.probabilities(np.stack(views)) if views else ())
    for file, view in chunk:
        yield view if isinstance(view, PredictionRow) else bundle.row(file.name, next(answers), top_k)
