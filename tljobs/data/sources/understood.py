"""What a user should see of a source before any work: labelled files flow in, (name, value) rows flow out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tljobs.data.sources.model import SourceFile, sample
from tljobs.records import SPLITS

EXAMPLES = 5
LISTED_CLASSES = 50


def understood_rows(
    kind: str, columns: str, files: Sequence[SourceFile], classes: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Rows for the kind of source, the columns used, classes with counts, the given split, and five examples."""
    counts = Counter(label for file in files for label in file.labels)
    unlabelled = sum(not file.labels for file in files)
    each = sample([f"{name} {counts[name]}" for name in classes], LISTED_CLASSES)
    splits = Counter(file.given_split for file in files)
    given = ", ".join(f"{split} {splits[split]}" for split in SPLITS if splits[split])
    groups = len({file.group for file in files} - {""})
    rows = [
        ("kind", kind),
        ("columns", columns),
        ("classes", f"{len(classes)}: {each}" + (f"; without any label {unlabelled}" if unlabelled else "")),
        ("given split", given or "none"),
        *([("groups", f"{groups}; {sum(not file.group for file in files)} images in none")] if groups else []),
        ("examples", "; ".join(_example(file) for file in _spread(files))),
    ]
    return tuple(rows)


def _spread(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Five files from all over the source: the first ones are mostly of one class."""
    count = min(EXAMPLES, len(files))
    return [files[(len(files) - 1) * number // max(1, count - 1)] for number in range(count)]


def _example(file: SourceFile) -> str:
    return f"{file.path} is {' + '.join(file.labels) or 'nothing'}"
