import pytest
from s3_server import S3Server
from store_contract import StoreContract

from tljobs.store import S3Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def store(s3_server: S3Server) -> S3Store:
    return S3Store(s3_server.new_bucket(), "team/tljobs", s3_server.endpoint_url)


class TestS3Store(StoreContract):
    pass
