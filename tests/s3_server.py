"""A real S3 server (SeaweedFS, one binary) for tests: on free ports, in a folder of its own, ended with the tests."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REGION = "us-east-1"
START_TIMEOUT_S = 30.0
START_ATTEMPTS = 3  # another process may take a port between our look and the server's bind
# Below the ports that the kernel gives to clients and above those that Ray gives to its workers.
FIRST_PORT, LAST_PORT, GRPC_OFFSET = 20_000, 22_500, 10_000
# The shell ends the server when its standard input closes: at stop(), or when the tests' process dies in any way.
GUARD = '"$@" & server=$!; cat >/dev/null; kill -9 $server; wait $server 2>/dev/null'


@dataclass(frozen=True)
class S3Server:
    """A running server and the only keys that it accepts."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=2)
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=config,
        )

    def new_bucket(self) -> str:
        """Creates an empty bucket and returns its name."""
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def environment(self) -> dict[str, str]:
        """What boto3 and Arrow need to find the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Starts a server, waits until it answers with our keys, and ends it with all its data."""
    with ExitStack() as stack:
        for attempt in range(1, START_ATTEMPTS + 1):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True)))
            process, server = _start(folder)
            stack.callback(_stop, process)
            if _answers(server):
                break
            if attempt == START_ATTEMPTS:
                raise RuntimeError(f"the S3 server does not start:\n{(folder / 'log').read_text()[-2000:]}")
        yield server


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    s3, master, filer, volume, admin = _free_ports(5)
    server = S3Server(f"http://127.0.0.1:{s3}", secrets.token_hex(8), secrets.token_hex(16))
    (folder / "data").mkdir()
    command = [
        *(str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder / 'data'}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
        *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.port={s3}", f"-master.port={master}"),
        *(f"-filer.port={filer}", f"-volume.port={volume}", f"-admin.port={admin}"),
        # By default the free disk decides, and every bucket takes some: 67 buckets filled the server once.
        "-volume.max=2000",
    ]
    environment = {**os.environ, **server.environment(), "GOMEMLIMIT": "300MiB"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
        )
    return process, server


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=10)


def _answers(server: S3Server) -> bool:
    """Whether the server lists its buckets for us before the time is up."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            client.list_buckets()
            return True
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
    return False


def _free_ports(count: int) -> list[int]:
    candidates = random.SystemRandom().sample(range(FIRST_PORT, LAST_PORT), 50 * count)
    free = [port for port in candidates if _is_free(port) and _is_free(port + GRPC_OFFSET)]
    return free[:count]


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
