"""The table of files: every listed file is a row, with what the plan decided; near duplicates of the images kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from first_pass import inspected as first_pass
from images import make_class_folders
from PIL import Image

from tljobs.data.files import FILES_SCHEMA, INSPECTED_SCHEMA, find_near, inspected_table, probes, with_rejected
from tljobs.data.plan import DatasetPlan, Rejected
from tljobs.data.prepare import _plan_dataset
from tljobs.data.probe import Inspected, Probe
from tljobs.data.sources import list_source
from tljobs.specs import PrepareSpec
from tljobs.store import LocalStore


def inspected(phashes: list[int], blank: tuple[int, ...] = ()) -> pa.Table:
    files = [
        Inspected(
            sha256=f"{number:064x}",
            probe=Probe(
                source_format="jpeg",
                width_px=9,
                height_px=9,
                mode="RGB",
                rotated=False,
                animated=False,
                phash=phash,
                brightness=1.5,
                blank=number in blank,
                border_share=0.0,
            ),
        )
        for number, phash in enumerate(phashes)
    ]
    return inspected_table(files)


def near_of(table: pa.Table) -> tuple[list[int], list[bool]]:
    near = find_near(table, table["sha256"].to_pylist())
    return near.groups.tolist(), near.unclear.tolist()


HALF = 0xFFFF_0000_FFFF_0000


def test_hashes_of_64_bits_come_through_unchanged() -> None:
    table = inspected([2**64 - 1, 0, HALF])
    assert table.schema.equals(INSPECTED_SCHEMA)
    assert table["phash"].to_pylist() == [2**64 - 1, 0, HALF]


def test_near_duplicates_are_those_of_the_images_asked_for() -> None:
    table = inspected([HALF, 0x5555_5555_5555_5555, HALF ^ 0b1011])
    assert near_of(table) == ([0, 1, 0], [False] * 3)
    sha256s = table["sha256"].to_pylist()
    assert find_near(table, [sha256s[2], sha256s[1]]).groups.tolist() == [0, 1]


def test_blank_images_and_those_without_texture_are_no_near_duplicates() -> None:
    assert near_of(inspected([HALF, HALF, HALF], blank=(1,)))[0] == [0, 1, 0]
    assert near_of(inspected([0, 0, 0b111]))[0] == [0, 1, 2]


def test_what_looks_alike_everywhere_is_unclear_and_not_kept_together() -> None:
    chain = [HALF ^ ((1 << bits) - 1) for bits in range(0, 64, 1)]
    groups, unclear = near_of(inspected([*chain, 0x0F0F_0F0F_0F0F_0F0F, 0x0F0F_0F0F_0F0F_0F0E]))
    assert unclear == [True] * 64 + [False] * 2
    assert len(set(groups[:64])) > 1
    assert groups[64:] == [64, 64]


@pytest.fixture
def planned(tmp_path: Path) -> DatasetPlan:
    """Two classes of 12 images; `a` also has a copy of its first image, `b` a broken file and one of half size."""
    folder = make_class_folders(tmp_path / "source", ("a", "b"), 12, size_px=96)
    first = folder / "a/0000.jpg"
    (folder / "a/copy.jpg").write_bytes(first.read_bytes())
    Image.open(folder / "b/0001.jpg").resize((48, 48), Image.Resampling.LANCZOS).save(folder / "b/small.png")
    (folder / "b/broken.jpg").write_bytes(first.read_bytes()[:-100])
    listing = list_source(str(folder))
    seen = inspected_table(first_pass(listing, LocalStore(tmp_path / "store")).files)
    spec = PrepareSpec(source=str(folder), name="d", image_size=48, max_rejected=0.1)
    return _plan_dataset(spec, listing, seen, None)


def test_every_listed_file_is_a_row_with_its_fate(planned: DatasetPlan) -> None:
    assert planned.files is not None
    assert planned.files.schema.equals(FILES_SCHEMA)
    rows = {
        Path(row["uri"]).name if "000" not in row["uri"] else row["uri"][-11:]: row for row in planned.files.to_pylist()
    }
    assert planned.files["uri"].to_pylist() == [each.uri for each in planned.listing.files]
    fate = {name: (bool(row["split"]), row["reason"]) for name, row in rows.items()}
    assert fate["broken.jpg"] == (False, "truncated")
    assert fate["copy.jpg"] == (False, "")
    assert all(kept for name, (kept, _) in fate.items() if name not in ("broken.jpg", "copy.jpg"))
    assert rows["copy.jpg"]["sha256"] == rows["/a/0000.jpg"]["sha256"]
    assert rows["small.png"]["width_px"] == 48


def test_near_duplicates_are_kept_in_one_split(planned: DatasetPlan) -> None:
    assert planned.files is not None
    rows = {row["uri"][-11:]: row for row in planned.files.to_pylist()}
    first, small = rows["/b/0001.jpg"], rows["b/small.png"]
    assert first["near"] == small["near"] >= 0
    assert first["split"] == small["split"]
    assert np.bitwise_count(np.uint64(first["phash"] ^ small["phash"])) <= 4


def test_files_that_are_rejected_late_leave_their_split(planned: DatasetPlan) -> None:
    assert planned.files is not None
    late = Rejected(uri=planned.files["uri"][0].as_py(), label="a", reason="unreadable", detail="gone")
    row = with_rejected(planned.files, [late]).to_pylist()[0]
    assert (row["split"], row["reason"], row["detail"]) == (None, "unreadable", "gone")


def test_probes_are_found_by_content(planned: DatasetPlan) -> None:
    assert planned.files is not None
    known = probes(planned.files)
    assert set(known) == {each.image.sha256 for each in planned.placed}
    assert {each["mode"] for each in known.values()} == {"RGB"}
