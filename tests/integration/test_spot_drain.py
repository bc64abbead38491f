import datetime
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "spot_drain.py"
WORKER_IP = "127.0.0.2"


@pytest.fixture(scope="module")
def spot_drain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spot_drain", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["spot_drain"] = module
    spec.loader.exec_module(module)
    return module


class MetadataServer(BaseHTTPRequestHandler):
    """An instance metadata service (IMDSv2): without a session token it answers 401."""

    pages: dict[str, str]

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._answer("session" if known else None)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "session":
            self.send_error(401)
        else:
            self._answer(self.pages.get(self.path.removeprefix("/latest/meta-data/")))

    def _answer(self, text: str | None) -> None:
        if text is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def pages() -> dict[str, str]:
    """What the metadata service knows besides tokens; a test adds the notice."""
    return {"local-ipv4": WORKER_IP}


@pytest.fixture
def metadata_url(pages: dict[str, str]) -> Iterator[str]:
    handler = type("Handler", (MetadataServer,), {"pages": pages})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def notice_in(seconds: float, action: str = "terminate") -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return json.dumps({"action": action, "time": moment.strftime("%Y-%m-%dT%H:%M:%SZ")})


def test_without_a_notice_there_is_nothing_to_do(spot_drain: ModuleType, metadata_url: str) -> None:
    metadata = spot_drain.Metadata(metadata_url)
    assert metadata.get("local-ipv4") == WORKER_IP
    assert metadata.notice() is None


def test_a_notice_gives_action_and_moment(spot_drain: ModuleType, metadata_url: str, pages: dict[str, str]) -> None:
    pages["spot/instance-action"] = notice_in(120)
    notice = spot_drain.Metadata(metadata_url).notice()
    assert notice.action == "terminate"
    assert notice.deadline_s - time.time() == pytest.approx(120, abs=3)


def test_hibernation_is_no_end(spot_drain: ModuleType) -> None:
    assert spot_drain.parse_notice(notice_in(120, "hibernate")) is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_node_of_the_notice_leaves_the_cluster(metadata_url: str, pages: dict[str, str]) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, node_ip_address=WORKER_IP)
        pages["spot/instance-action"] = notice_in(120)
        command = [sys.executable, str(SCRIPT), "--address", cluster.gcs_address, "--metadata-url", metadata_url]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert shown.returncode == 0, shown.stderr
        assert "draining" in shown.stderr
        assert _left(cluster.gcs_address, within_s=60)
    finally:
        cluster.shutdown()


def _left(gcs_address: str, within_s: float) -> bool:
    """Whether the worker leaves (an idle node that is drained does so by itself) and the head stays."""
    from ray._raylet import GcsClient
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    gcs = GcsClient(address=gcs_address)
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        nodes = gcs.get_all_node_info(timeout=10).values()
        alive = {node.node_manager_address for node in nodes if node.state == GcsNodeInfo.GcsNodeState.ALIVE}
        if WORKER_IP not in alive:
            return len(alive) == 1
        time.sleep(0.5)
    return False
