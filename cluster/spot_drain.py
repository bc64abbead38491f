"""Tells Ray that this spot instance will be taken away, so that training saves and moves before it happens.

Runs beside `ray start` on every worker of ray-cluster.yaml. In: the instance metadata service (IMDSv2), asked every few
seconds. Out: one drain request to the head, with a deadline; Ray itself reads no spot notices, but obeys drains. On
Kubernetes it is not needed: there SIGTERM to `ray start --block` drains the node.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

log = logging.getLogger("spot_drain")

METADATA_URL = "http://169.254.169.254"
METADATA_TIMEOUT_S = 2.0
TOKEN_LIFETIME_S = 300
POLL_EVERY_S = 5.0  # AWS announces the end of a spot instance two minutes ahead
# A node that dies before the deadline that Ray was told counts as a failure of the run, so Ray is told less.
SAFETY_S = 5.0
GCS_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Notice:
    """The announced end of this instance: what will happen, and when (seconds since 1970)."""

    action: str
    deadline_s: float


class Metadata:
    """The instance metadata service; each question comes with a fresh session token, as IMDSv2 asks."""

    def __init__(self, url: str = METADATA_URL) -> None:
        self._url = url.rstrip("/")

    def get(self, path: str) -> str | None:
        """The text at `path` below latest/meta-data, or None where there is none. Raises OSError if nobody answers."""
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_LIFETIME_S)}
        token = self._ask(urllib.request.Request(f"{self._url}/latest/api/token", method="PUT", headers=lifetime))
        url = f"{self._url}/latest/meta-data/{path}"
        try:
            return self._ask(urllib.request.Request(url, headers={"X-aws-ec2-metadata-token": token}))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def notice(self) -> Notice | None:
        """The pending interruption of this instance, if there is one."""
        text = self.get("spot/instance-action")
        return parse_notice(text) if text else None

    @staticmethod
    def _ask(request: urllib.request.Request) -> str:
        with urllib.request.urlopen(request, timeout=METADATA_TIMEOUT_S) as answer:
            text: str = answer.read().decode()
            return text


def parse_notice(text: str) -> Notice | None:
    """Reads spot/instance-action: {"action": "terminate", "time": "2026-01-01T12:00:00Z"}. Hibernation is no end."""
    found = json.loads(text)
    if found["action"] not in ("terminate", "stop"):
        return None
    moment = datetime.datetime.fromisoformat(found["time"])
    return Notice(found["action"], moment.timestamp())


def drain(head_address: str, node_ip: str, notice: Notice) -> str:
    """Asks the head to drain the node with this address; returns why it refused, or an empty text."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.exceptions import RayError

    preemption, deadline_ms = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION, int((notice.deadline_s - SAFETY_S) * 1000)
    try:
        gcs = GcsClient(address=head_address)
        nodes = gcs.get_all_node_info(timeout=GCS_TIMEOUT_S).items()
        alive = {node.node_manager_address: key for key, node in nodes if node.state == GcsNodeInfo.GcsNodeState.ALIVE}
        if node_ip not in alive:
            return f"no living node has the address {node_ip}"
        accepted, reason = gcs.drain_node(alive[node_ip].hex(), preemption, f"spot {notice.action}", deadline_ms)
    except RayError as error:
        return f"{type(error).__name__}: {error}"
    return "" if accepted else reason or "no reason given"


def watch(metadata: Metadata, head_address: str, node_ip: str | None, poll_every_s: float = POLL_EVERY_S) -> Notice:
    """Waits for a notice and drains this node; asks again until the head has accepted."""
    while True:
        try:
            notice = metadata.notice()
            if notice:
                refusal = drain(head_address, node_ip or metadata.get("local-ipv4") or "", notice)
                if not refusal:
                    return notice
                log.warning("the head refused to drain this node: %s", refusal)
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s: %s", type(error).__name__, error)
        time.sleep(poll_every_s)


def main() -> int:
    parser = argparse.ArgumentParser(description="Drains this Ray node when its spot instance will be taken away.")
    parser.add_argument("--address", required=True, help="HOST:PORT of the Ray head")
    parser.add_argument("--node-ip", help="address of this node (default: asked from the metadata service)")
    parser.add_argument("--metadata-url", default=METADATA_URL, help="instance metadata service")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    import ray._raylet  # noqa: F401 - takes seconds, which are few once the notice is there

    notice = watch(Metadata(arguments.metadata_url), arguments.address, arguments.node_ip)
    log.info("spot %s in %.0f s: draining", notice.action, notice.deadline_s - time.time())
    return 0


if __name__ == "__main__":
    sys.exit(main())
