"""Fixtures for all tests: a real S3 server for the session, and a folder of small labelled images.

Quick tests run before slow ones, whatever their files, so that a plain mistake shows within seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from images import make_class_folders
from s3_server import S3Server, running_s3_server

pytest.register_assert_rewrite("store_contract")

# What a developer's shell may hold and no test should see: a real cluster, a real store, real keys.
FOREIGN_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "TLJOBS_STORE", "AWS_PROFILE", "AWS_ENDPOINT_URL")
# Without RAY_AUTH_MODE, an embedded Ray writes a token into the home folder, which changes later clusters.
TEST_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "TF_CPP_MIN_LOG_LEVEL": "2"}


# A busy machine is no bug: pytest's own time limit is the one that counts.
settings.register_profile("tljobs", deadline=None)
settings.load_profile("tljobs")


def pytest_configure() -> None:
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(TEST_VARIABLES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A running S3 server; its address and keys stand in the environment, so that subprocesses inherit them."""
    with running_s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three class folders with 20 JPEGs each, 96 px; read only."""
    return make_class_folders(tmp_path_factory.mktemp("small_images"), ["cross", "disc", "stripes"], per_class=20)
