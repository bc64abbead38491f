"""A table with several labels per image, from prepare to an exported model: what left and right halves show."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import encoded, pixels
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard.figures.gallery import NO_LABEL
from dashboard.text import plain
from tljobs import cli
from tljobs.runs import dataset_index, open_dataset, run_evaluations, run_predictions
from tljobs.store import LocalStore, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIDE_PX = 72
IMAGES = 160
TEXTURES = {"checks": 2, "disc": 1}  # place in images.TEXTURES; checks are on the left, a disc on the right
CLASSES = list(TEXTURES)
PREPARE = ["--name", "halves", "--image-size", "64", "--split", "60/20/20", "--shard-images", "64"]


def labels_of(number: int) -> list[str]:
    """Every combination in turn: none, checks, disc, both."""
    return [name for bit, name in enumerate(CLASSES) if number >> bit & 1]


def halves(number: int) -> npt.NDArray[np.uint8]:
    """uint8 (SIDE_PX, SIDE_PX, 3): each half shows its texture or noise."""
    image = np.random.default_rng(number).integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
    parts = {"checks": slice(None, SIDE_PX // 2), "disc": slice(SIDE_PX // 2, None)}
    for name in labels_of(number):
        image[:, parts[name]] = pixels(TEXTURES[name], number, SIDE_PX)[:, parts[name]]
    return image


def write_tables(folder: Path) -> None:
    """`flags.csv` with a column of 0 and 1 per class, `tags.csv` with one column of labels between `|`."""
    flags: list[list[str]] = [["file", *CLASSES]]
    tags: list[list[str]] = [["file", "tags"]]
    for number in range(IMAGES):
        name, labels = f"images/{number:03}.jpg", labels_of(number)
        (folder / name).write_bytes(encoded(Image.fromarray(halves(number)), quality=92))
        flags.append([name, *(str(int(each in labels)) for each in CLASSES)])
        tags.append([name, "|".join(labels)])
    for file, rows in (("flags.csv", flags), ("tags.csv", tags)):
        with (folder / file).open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_two_cpus: None) -> Path:
    """The images, their tables, and `store` with the dataset `halves` and the run `pair`."""
    folder = tmp_path_factory.mktemp("multi_label")
    (folder / "images").mkdir()
    write_tables(folder)
    store = ["--store", str(folder / "store")]
    columns = [word for name in CLASSES for word in ("--label-column", name)]
    assert cli.run(["prepare", str(folder / "flags.csv"), *columns, *PREPARE, *store]) == 0
    train = ["train", "halves", "--name", "pair", "--unfreeze", "head", "--epochs", "6", "--learning-rate", "1e-2"]
    assert cli.run([*train, *store]) == 0
    return folder


@pytest.fixture
def store(folder: Path) -> Store:
    return LocalStore(folder / "store")


def test_images_of_none_one_and_both_classes_are_in_the_shards(store: Store) -> None:
    manifest = open_dataset(store, "halves")
    assert (manifest.task, list(manifest.classes)) == ("multi-label", CLASSES)
    labels: list[list[int]] = []
    for info in manifest.splits.values():
        for shard in info.shards:
            with store.open_input(shard.key) as file:
                column = pq.ParquetFile(file).read(use_threads=False)["label"]
            assert pa.types.is_list(column.type)
            labels += column.to_pylist()
    assert sorted(labels) == sorted(dataset_index(store, manifest)["label"].to_pylist())
    counted = {names: labels.count(list(names)) for names in ((), (0,), (1,), (0, 1))}
    assert counted == dict.fromkeys(counted, IMAGES // 4)


def test_a_column_with_a_separator_and_columns_of_0_and_1_are_one_dataset(
    folder: Path, store: Store, tljobs: Callable[..., Any]
) -> None:
    columns = ["--label-column", "tags", "--label-separator", "|"]
    done = tljobs("prepare", "tags.csv", *columns, *PREPARE, "--json", "--store", "store", folder=folder)
    assert done.code == 0, done.err
    again = json.loads(done.out)
    assert (again["reused"], again["version"]) == (True, open_dataset(store, "halves").version)


def test_evaluation_ranks_images_of_each_class_above_the_others(folder: Path, tljobs: Callable[..., Any]) -> None:
    done = tljobs("evaluate", "pair", "--split", "test", "--json", "--store", "store", folder=folder)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert [each["label"] for each in report["per_class"]] == CLASSES
    assert all(each["auroc"] > 0.8 for each in report["per_class"])
    assert report["scores"]["macro_auroc"] > 0.8
    assert report["confusion"] == []


def test_probabilities_of_an_image_do_not_add_up_to_1(store: Store) -> None:
    (report,) = [each for each in run_evaluations(store, "pair") if each.split == "test"]
    table = run_predictions(store, report)
    probabilities = np.array(table["probabilities"].to_pylist())
    assert np.abs(probabilities.sum(axis=1) - 1).max() > 0.5
    assert table["predicted"].to_pylist() == [np.flatnonzero(row >= 0.5).tolist() for row in probabilities]


def test_predict_gives_all_labels_that_apply_from_the_store_and_from_an_exported_folder(
    folder: Path, tljobs: Callable[..., Any]
) -> None:
    done = tljobs("predict", "pair", "images", "--store", "store", folder=folder)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len(rows) == IMAGES
    for row in rows:
        assert row["label"] == "|".join(label for label, score in row["top"] if score >= 0.5)
    answers = [sorted(filter(None, row["label"].split("|"))) for row in rows]
    assert {len(each) for each in answers} == {0, 1, 2}
    assert sum(answer == labels_of(number) for number, answer in enumerate(answers)) > 0.7 * IMAGES

    assert tljobs("export", "pair", "--out", "model", "--store", "store", folder=folder).code == 0
    exported = tljobs("predict", "model", "images", "--store", "store", folder=folder)
    assert exported.out == done.out
    assert "any number of labels" in (folder / "model/README.md").read_text()


def test_lists_and_details_of_the_run_are_shown(folder: Path, tljobs: Callable[..., Any]) -> None:
    for command in (["runs"], ["runs", "show", "pair"], ["datasets"], ["audit", "halves"]):
        done = tljobs(*command, "--store", "store", folder=folder)
        assert done.code == 0, done.err
        assert "halves" in done.out or "disc" in done.out


def test_the_run_screen_shows_scores_errors_and_no_confusion_matrix(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLJOBS_STORE", str(folder / "store"))
    app = AppTest.from_function(run_script, default_timeout=120)
    app.query_params["name"] = "pair"
    app.run()
    assert not app.exception
    assert not app.error
    texts = [each.value for each in app.markdown]
    assert {"Accuracy", "Label accuracy", "Macro AUROC"} <= {each.label for each in app.metric}
    assert "#### Confusion matrix" not in texts
    assert "#### Worst errors" in texts
    (per_class,) = [each.value for each in app.dataframe if "auroc" in each.value.columns]
    assert sorted(per_class["class"]) == CLASSES
    assert (per_class["auroc"] > 0.8).all()


def run_script() -> None:
    from dashboard.views import run

    run.page(lambda name: None)


def test_the_predict_screen_names_all_labels_or_none(
    folder: Path, tljobs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tljobs("predict", "pair", "images", "--store", "store", folder=folder)
    rows = {row["label"]: row for row in map(json.loads, done.out.splitlines())}
    several = next(row for label, row in rows.items() if "|" in label)
    monkeypatch.setenv("TLJOBS_STORE", str(folder / "store"))
    app = AppTest.from_function(predict_script, default_timeout=200).run()
    for row in (rows[""], several):
        path = folder / row["input"]
        app.file_uploader(key="images").upload(path.name, path.read_bytes(), "image/jpeg")
    app.run()
    assert not app.exception
    assert not app.error
    assert [each.value for each in app.metric] == [NO_LABEL, plain(several["label"])]
    assert [each.delta for each in app.metric] == [f"highest: {rows['']['score']:.1%}", f"{several['score']:.1%}"]


def predict_script() -> None:
    from dashboard.views import predict

    predict.page()


def test_an_exported_dataset_keeps_images_of_none_and_of_several_classes(
    folder: Path, store: Store, tljobs: Callable[..., Any]
) -> None:
    for command in (
        ["export-dataset", "halves", "--out", "records"],
        ["prepare", "records", "--name", "again", "--image-size", "64"],
    ):
        done = tljobs(*command, "--store", "store", folder=folder)
        assert done.code == 0, done.err
    first, again = (open_dataset(store, name) for name in ("halves", "again"))
    assert (again.task, again.classes) == (first.task, first.classes)
    assert {name: (info.images, info.per_class) for name, info in again.splits.items()} == {
        name: (info.images, info.per_class) for name, info in first.splits.items()
    }


def test_a_search_finds_its_best_run_by_the_share_of_images_with_every_class_right(
    folder: Path, tljobs: Callable[..., Any]
) -> None:
    tune = ["tune", "halves", "--name", "pairs", "--backbone", "small-cnn", "--weights", "none", "--epochs", "2"]
    grid = ["--head-epochs", "1", "--learning-rate", "1e-2,1e-3", "--unfreeze", "all", "--json", "--store", "store"]
    done = tljobs(*tune, *grid, folder=folder)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert [trial["status"] for trial in result["trials"]] == ["finished", "finished"]
    assert all(0 <= trial["score"] <= 1 for trial in result["trials"])
    assert result["best"] in ("pairs-000", "pairs-001")
    assert 0 <= result["scores"]["val"]["accuracy"] <= 1
