"""A run's model as a folder of its own: files out of the store, verified after they were written."""

from __future__ import annotations

from pathlib import Path

from tljobs import layout
from tljobs.errors import NotFound
from tljobs.new_folder import free_folder, new_folder
from tljobs.progress import SILENT, Reporter
from tljobs.records import ModelRecord
from tljobs.results import ExportResult
from tljobs.runs import open_run, run_evaluations, run_model
from tljobs.serving.bundle import MODEL_FILE, RECORD_FILE, check_record, open_folder
from tljobs.serving.card import model_card
from tljobs.specs import ExportSpec
from tljobs.store import Store

PREDICT_SCRIPT = '''"""python predict.py IMAGE...: the label of each image, with the model in this folder."""

import sys
from pathlib import Path

from tljobs.serving.bundle import open_folder

bundle = open_folder(Path(__file__).parent)
for name in sys.argv[1:]:
    pixels = bundle.pixels(Path(name).read_bytes())
    print(bundle.row(name, bundle.probabilities(pixels[None])[0], top_k=5).model_dump_json())
'''


def export(
    spec: ExportSpec, store: Store, reporter: Reporter = SILENT, *, dry_run: bool = False
) -> ExportResult | None:
    """Creates the folder `spec.out` with the model, its record, labels, card and a script. None with `dry_run`.

    The folder appears when it is complete; then its model is opened from there as any user would. Raises NotFound
    without the run or its model, NameTaken when the folder has something in it, InputRefused when the stored model is
    not the one in its record.
    """
    out = free_folder(spec.out, "a model")
    record = _model_record(store, spec.run)
    reporter.plan(
        f"export {spec.run}",
        [
            ("format", spec.format),
            ("folder", str(out)),
            ("classes", str(len(record.classes))),
            ("size", f"{record.file.size_bytes / 1e6:.1f} MB"),
        ],
    )
    if dry_run:
        return None
    files = _files(store, record)
    _write_folder(out, files)
    open_folder(out)
    return ExportResult(
        run=spec.run,
        format=spec.format,
        out=str(out),
        files=sorted(files),
        sha256=record.file.sha256,
        made=f"model of {spec.run} in {out}: {', '.join(sorted(files))}",
        next_command=f"tljobs predict {out} IMAGE",
    )


def _model_record(store: Store, run: str) -> ModelRecord:
    try:
        record = run_model(store, run)
    except NotFound:
        open_run(store, run)
        raise
    check_record(record, layout.run_model_record(run))
    return record


def _files(store: Store, record: ModelRecord) -> dict[str, bytes]:
    return {
        MODEL_FILE: store.read(record.file.key),
        RECORD_FILE: record.to_bytes(),
        "labels.txt": "".join(f"{label}\n" for label in record.classes).encode(),
        "README.md": model_card(record, run_evaluations(store, record.run)).encode(),
        "predict.py": PREDICT_SCRIPT.encode(),
    }


def _write_folder(out: Path, files: dict[str, bytes]) -> None:
    with new_folder(out, "the model") as draft:
        for name, data in files.items():
            (draft / name).write_bytes(data)
