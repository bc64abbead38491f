"""Each planted fault of a source is found under its name, counted, and shown; a clean source has no findings."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tljobs.data.audit import audit_files, audit_text, refuse_blocked
from tljobs.data.files import FILES_SCHEMA
from tljobs.errors import InputRefused
from tljobs.records import AuditReport, Finding
from tljobs.specs import PrepareSpec

Row = dict[str, Any]
CLASSES = ("cat", "dog", "owl")
PER_CLASS = 20
NUMBERS = random.Random(0)


def row(label: str, number: int, **different: Any) -> Row:
    """A kept image of 300 x 200 pixels: of 20 numbers, 16 train, 2 val and 2 test."""
    split = "val" if number % 10 == 8 else "test" if number % 10 == 9 else "train"
    known: Row = {
        "uri": f"/photos/{label}/{number:03}.jpg",
        "labels": [label],
        "given_split": None,
        "group": "",
        "split": split,
        "near": NUMBERS.getrandbits(40),
        "unclear": False,
        "sha256": f"{NUMBERS.getrandbits(256):064x}",
        "reason": "",
        "detail": "",
        "source_format": "jpeg",
        "width_px": 300,
        "height_px": 200,
        "mode": "RGB",
        "rotated": False,
        "animated": False,
        "phash": NUMBERS.getrandbits(64),
        "brightness": 100.0,
        "blank": False,
        "border_share": 0.0,
    }
    return known | different


def bad(label: str, number: int, reason: str) -> Row:
    """A rejected file: nothing but its hash is known."""
    unknown = ("split", "source_format", "width_px", "height_px", "mode", "phash", "brightness", "blank")
    return row(label, number, reason=reason, near=-1, **dict.fromkeys(unknown))


def clean() -> list[Row]:
    return [row(label, number) for label in CLASSES for number in range(PER_CLASS)]


def report_on(rows: list[Row], **options: Any) -> AuditReport:
    asked = {"source": "/photos", "name": "d", "image_size": 160, "max_rejected": 0.2, **options}
    classes = sorted({label for each in rows for label in each["labels"]})
    return audit_files(pa.Table.from_pylist(rows, schema=FILES_SCHEMA), classes, PrepareSpec.model_validate(asked))


def found(rows: list[Row], **options: Any) -> dict[str, Finding]:
    return {finding.code: finding for finding in report_on(rows, **options).findings}


def changed(rows: list[Row], chosen: Callable[[Row], bool], **different: Any) -> list[Row]:
    return [each | different if chosen(each) else each for each in rows]


def of(*numbers: int, label: str = "cat") -> Callable[[Row], bool]:
    return lambda each: each["labels"] == [label] and int(each["uri"][-7:-4]) in numbers


def test_a_clean_source_has_no_findings() -> None:
    report = report_on(clean())
    assert report.findings == ()
    assert (report.files, report.images, report.duplicates, report.near_groups) == (60, 60, 0, 0)
    assert [each.splits for each in report.classes] == [{"train": 16, "val": 2, "test": 2}] * 3
    assert report.short_side_px == {"min": 200, "p5": 200, "median": 200, "p95": 200, "max": 200}
    assert (report.formats, report.modes) == ({"jpeg": 60}, {"RGB": 60})
    refuse_blocked(report, "/photos")


@pytest.mark.parametrize(
    "reason", ["corrupt", "truncated", "empty", "not_an_image", "too_large", "too_small", "too_narrow", "unsupported"]
)
def test_rejected_files_are_told_by_reason(reason: str) -> None:
    rows = [*clean(), bad("dog", 98, reason), bad("dog", 99, reason)]
    (finding,) = found(rows).values()
    assert (finding.code, finding.severity, finding.count) == (f"rejected-{reason.replace('_', '-')}", "warns", 2)
    assert [each.uri for each in finding.examples] == ["/photos/dog/098.jpg", "/photos/dog/099.jpg"]
    report = report_on(rows)
    assert (report.rejected, report.files, report.images, report.duplicates) == ({reason: 2}, 62, 60, 0)
    assert {each.label: each.rejected for each in report.classes} == {"cat": 0, "dog": 2, "owl": 0}


def test_too_many_rejected_block_until_more_are_allowed() -> None:
    rows = [*clean(), *(bad("cat", 90 + number, "corrupt") for number in range(4))]
    finding = found(rows, max_rejected=0.06)["too-many-rejected"]
    assert (finding.severity, finding.count, finding.option) == ("blocks", 4, "--max-rejected")
    assert "too-many-rejected" not in found(rows, max_rejected=0.07)


def test_exact_copies_of_one_class_are_counted_once_less() -> None:
    rows = clean()
    rows += [rows[3] | {"uri": f"/photos/cat/copy-{number}.jpg", "split": None, "near": -1} for number in range(2)]
    (finding,) = found(rows).values()
    assert (finding.code, finding.severity, finding.count) == ("duplicates", "info", 2)
    assert finding.examples[0].id == rows[3]["sha256"][:32]
    assert report_on(rows).duplicates == 2


def test_exact_copies_of_several_classes_are_conflicts_which_can_be_excused() -> None:
    rows = [*clean(), bad("cat", 98, "label_conflict"), bad("dog", 98, "label_conflict")]
    finding = found(rows)["label-conflicts"]
    assert (finding.severity, finding.count, finding.option) == ("warns", 2, "--allow label-conflicts")
    assert found(rows, max_rejected=0)["too-many-rejected"].severity == "blocks"
    assert "too-many-rejected" not in found(rows, max_rejected=0, allow=["label-conflicts"])


def test_exact_copies_in_several_given_splits_are_named() -> None:
    rows = [each | {"given_split": each["split"]} for each in clean()]
    rows.append(rows[9] | {"uri": "/photos/train/cat/copy.jpg", "given_split": "train", "split": None, "near": -1})
    told = found(rows)
    assert set(told) == {"duplicates", "duplicates-across-splits"}
    finding = told["duplicates-across-splits"]
    assert (finding.severity, finding.count) == ("warns", 2)
    assert {each.uri for each in finding.examples} == {"/photos/cat/009.jpg", "/photos/train/cat/copy.jpg"}


def test_near_duplicates_of_one_class_are_grouped() -> None:
    rows = changed(changed(clean(), of(0, 1, 2), near=1), of(5, 6, label="dog"), near=2)
    (finding,) = found(rows).values()
    assert (finding.code, finding.severity, finding.count) == ("near-duplicates", "info", 2)
    assert "5 images" in finding.text
    assert len(finding.examples) == 5
    assert report_on(rows).near_groups == 2
    assert found(rows, near_duplicates="off") == {}


def test_near_duplicates_of_different_classes_warn() -> None:
    rows = changed(changed(clean(), of(0), near=1), of(0, label="dog"), near=1)
    finding = found(rows)["near-label-conflicts"]
    assert (finding.severity, finding.count) == ("warns", 2)
    assert {each.label for each in finding.examples} == {"cat", "dog"}


def leaking(count: int, of_each_split: int) -> list[Row]:
    """A source with so many validation images, and as many test images, of which the first `count` have a near
    duplicate in train."""
    rows = [row(CLASSES[number % 3], number) for number in range(10 * of_each_split)]
    tested = [place for place, each in enumerate(rows) if each["split"] == "val"]
    for place in tested[:count]:
        rows[place]["near"] = rows[place - 1]["near"]
    return rows


def test_near_duplicates_across_splits_warn_and_block_when_they_are_many() -> None:
    few = found(leaking(5, 50))["near-duplicates-across-splits"]
    assert (few.severity, few.count, few.option) == ("warns", 5, "--allow leakage")
    assert few.text.startswith("5 validation and test images have a near duplicate in train (10.0% of val, 0.0% of")
    many = leaking(6, 50)
    assert found(many)["near-duplicates-across-splits"].severity == "blocks"
    assert found(many, allow=["leakage"])["near-duplicates-across-splits"].severity == "warns"
    assert found(many, near_duplicates="report")["near-duplicates-across-splits"].severity == "warns"
    assert "near-duplicates-across-splits" not in found(many, near_duplicates="off")


def test_a_handful_of_near_duplicates_stops_nobody_however_small_the_split() -> None:
    assert found(leaking(4, 6))["near-duplicates-across-splits"].severity == "warns"
    assert found(leaking(5, 6))["near-duplicates-across-splits"].severity == "blocks"


def test_near_duplicates_within_train_are_no_leakage() -> None:
    assert "near-duplicates-across-splits" not in found(changed(clean(), of(0, 1), near=1))
    assert "near-duplicates-across-splits" not in found(changed(clean(), of(8, 9), near=1))


def patients(*numbers: int) -> list[Row]:
    """A source in which the images with these numbers, of any class, are of one patient."""
    return [each | {"group": "patient 7"} if int(each["uri"][-7:-4]) in numbers else each for each in clean()]


def test_groups_across_splits_are_leakage() -> None:
    told = found(patients(0, 8, 18))["groups-across-splits"]
    assert (told.severity, told.count, told.option) == ("blocks", 6, "--allow leakage")
    assert found(patients(0, 8, 18), allow=["leakage"])["groups-across-splits"].severity == "warns"
    assert found(patients(0, 8))["groups-across-splits"].severity == "warns"
    assert "groups-across-splits" not in found(patients(0, 1, 2))


def test_what_blocks_is_refused_with_examples_and_options() -> None:
    with pytest.raises(InputRefused) as caught:
        refuse_blocked(report_on(patients(0, 8, 18)), "/photos")
    assert "6 validation and test images have another image of their group in train" in caught.value.what
    assert "/photos/cat/008.jpg" in caught.value.hint
    assert "--allow leakage" in caught.value.hint
    refuse_blocked(report_on(patients(0, 8, 18), allow=["leakage"]), "/photos")


def test_a_class_with_one_image_has_none_in_val() -> None:
    told = found([*clean(), row("yak", 0)])
    assert (told["no-val-images"].severity, told["no-val-images"].option) == ("blocks", "--split")
    assert "'yak'" in told["no-val-images"].text
    assert "'yak'" in told["few-images"].text


def test_classes_without_validation_or_training_images_block() -> None:
    told = found(changed(clean(), of(8, 18), split="test"))
    assert {code: (each.severity, each.count) for code, each in told.items()} == {"no-val-images": ("blocks", 1)}
    told = found(changed(clean(), lambda each: each["labels"] == ["cat"] and each["split"] == "train", split="test"))
    assert told["no-train-images"].severity == "blocks"


def test_heavy_imbalance_is_named_with_both_ends() -> None:
    rows = [*clean(), *(row("owl", 100 + 10 * number) for number in range(144))]
    (finding,) = found(rows).values()
    assert (finding.code, finding.severity, finding.count) == ("imbalance", "warns", 10)
    assert "'owl' (160)" in finding.text
    assert "'cat' (16)" in finding.text
    assert found(rows[:-1]) == {}


def test_class_names_that_differ_in_case_only_are_named() -> None:
    rows = [*clean(), *(row("Cat", number) for number in range(PER_CLASS))]
    (finding,) = found(rows).values()
    assert (finding.code, finding.severity, finding.count) == ("similar-class-names", "warns", 2)
    assert "'Cat', 'cat'" in finding.text


@pytest.mark.parametrize(
    ("code", "severity", "different"),
    [
        ("blank", "warns", {"blank": True, "border_share": 1.0}),
        ("upscaled", "warns", {"width_px": 100}),
        ("borders", "info", {"border_share": 0.2}),
        ("grey", "info", {"mode": "L"}),
        ("cmyk", "info", {"mode": "CMYK"}),
        ("rotated", "info", {"rotated": True}),
        ("animated", "info", {"animated": True}),
        ("wrong-extension", "info", {"source_format": "png"}),
    ],
)
def test_unusual_images_are_counted_and_shown(code: str, severity: str, different: Row) -> None:
    (finding,) = found(changed(clean(), of(2, 5), **different)).values()
    assert (finding.code, finding.severity, finding.count) == (code, severity, 2)
    assert [each.uri for each in finding.examples] == ["/photos/cat/002.jpg", "/photos/cat/005.jpg"]


@pytest.mark.parametrize(
    ("code", "different"),
    [
        ("grey-marks-class", {"mode": "L"}),
        ("borders-marks-class", {"border_share": 0.2}),
        ("small-marks-class", {"height_px": 90}),
        ("rotated-marks-class", {"rotated": True}),
        ("format-marks-class", {"source_format": "png"}),
    ],
)
def test_a_property_of_one_class_only_gives_it_away(code: str, different: Row) -> None:
    rows = changed(clean(), lambda each: each["labels"] == ["dog"], **different)
    finding = found(rows)[code]
    assert (finding.severity, finding.count) == ("warns", PER_CLASS)
    assert finding.text.startswith("100% of the images of 'dog'")
    everywhere = [each | different for each in clean()]
    assert code not in found(everywhere)


def test_a_property_that_only_one_class_lacks_gives_it_away_too() -> None:
    rows = changed(clean(), lambda each: each["labels"] != ["dog"], mode="L")
    assert found(rows)["grey-marks-class"].text == "0% of the images of 'dog' are grey, 100% of others"


def test_images_that_cannot_be_told_apart_are_named() -> None:
    told = found(changed(clean(), of(*range(12)), unclear=True))
    assert (told["near-duplicates-unclear"].severity, told["near-duplicates-unclear"].count) == ("warns", 12)


def test_several_labels_count_in_each_class() -> None:
    rows = changed(clean(), of(0, 1), labels=["cat", "dog"])
    counts = {each.label: each.splits["train"] for each in report_on(rows).classes}
    assert counts == {"cat": 16, "dog": 18, "owl": 16}


def test_examples_are_ten_at_most_and_braces_in_names_do_no_harm() -> None:
    rows = [each | {"labels": ["{count}"]} if each["labels"] == ["cat"] else each for each in clean()]
    finding = found(changed(rows, lambda each: each["labels"] == ["{count}"], mode="L"))["grey"]
    assert (finding.count, len(finding.examples)) == (20, 10)


def test_the_text_has_classes_and_findings_worst_first() -> None:
    rows = changed(patients(0, 8, 18), of(3), blank=True)
    lines = audit_text(report_on([*rows, bad("cat", 99, "corrupt")])).splitlines()
    assert lines[0] == "files      61: 60 images, 0 duplicates, 1 rejected"
    assert "cat         16       2       2        1" in lines
    order = [line.split()[0] for line in lines if line.startswith(("blocks", "warns", "info"))]
    assert order == sorted(order, key=["blocks", "warns", "info"].index)
    assert order.count("blocks") == 1
    assert any(line == "         /photos/cat/008.jpg" for line in lines)


def test_a_report_comes_back_from_its_bytes() -> None:
    report = report_on(changed(clean(), of(1), blank=True))
    assert AuditReport.from_bytes(report.to_bytes()) == report


def test_the_time_for_many_files_is_a_moment() -> None:
    generator = np.random.default_rng(0)
    count = 50_000
    columns = {name: [value] * count for name, value in row("cat", 0).items()}
    columns["labels"] = [[CLASSES[number % 3]] for number in range(count)]
    columns["split"] = ["val" if number % 10 == 9 else "train" for number in range(count)]
    columns["sha256"] = [f"{number:064x}" for number in range(count)]
    columns["near"] = generator.integers(0, count, count).tolist()
    columns["phash"] = list(range(count))
    spec = PrepareSpec(source="/photos", name="d", image_size=160, near_duplicates="report")
    table = pa.table(columns, schema=FILES_SCHEMA)
    started = time.process_time()
    report = audit_files(table, CLASSES, spec)
    assert time.process_time() - started < 10  # 0.5 s measured
    assert report.images == count
    assert {finding.code for finding in report.findings} >= {"near-duplicates", "near-duplicates-across-splits"}
