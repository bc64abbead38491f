from pathlib import Path

import pytest
from store_contract import StoreContract

from tljobs.store import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


class TestLocalStore(StoreContract):
    pass
