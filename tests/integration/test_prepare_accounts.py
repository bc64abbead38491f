"""Whatever a folder holds: every listed file is in exactly one of shards, duplicates and rejected."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import jpeg_bytes

from tljobs.data.prepare import prepare
from tljobs.errors import InputRefused
from tljobs.runs import dataset_index, dataset_rejected, open_dataset
from tljobs.specs import PrepareSpec
from tljobs.store import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_two_cpus")]
GOOD = [jpeg_bytes(number % 3, number, 48) for number in range(40)]
BAD = [b"", b"hello, world", GOOD[0][:-40]]
CONTENTS = [*GOOD, *BAD]
contents = st.one_of(st.integers(0, 39), st.integers(0, 39), st.integers(40, 42))
files = st.lists(st.tuples(st.sampled_from("ab"), contents), min_size=12, max_size=60)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=files)
def test_every_file_has_one_fate(files: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, store = Path(name, "source"), LocalStore(Path(name, "store"))
        for number, (label, content) in enumerate(files):
            path = source / label / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENTS[content])
        spec = PrepareSpec(source=str(source), name="any", image_size=32, split="60/20/20", max_rejected=1.0)
        try:
            result = prepare(spec, store)
        except InputRefused:  # a single class, or one without training or validation images
            assert store.folders("datasets/any/") == []
            return
        assert result is not None
        manifest = open_dataset(store, "any")
        index, rejected = dataset_index(store, manifest).to_pylist(), dataset_rejected(store, manifest).to_pylist()
        kept, refused = {row["uri"] for row in index}, {row["uri"] for row in rejected}
        assert not kept & refused
        assert len(kept) + len(refused) + result.duplicates == len(files)
        on_disk = {str(path): path.read_bytes() for path in source.rglob("*.jpg")}
        assert {on_disk[uri] for uri in kept}.isdisjoint(BAD)
        assert len({on_disk[uri] for uri in kept}) == len(kept)
        labels: dict[bytes, set[str]] = {}
        for label, content in files:
            labels.setdefault(CONTENTS[content], set()).add(label)
        agreed = {data for data, own in labels.items() if len(own) == 1 and data not in BAD}
        assert {on_disk[uri] for uri in kept} == agreed
        assert Counter(row["reason"] for row in rejected) == manifest.rejected_reasons
