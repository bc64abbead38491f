"""Starts the dashboard's server: a store's address in, a Streamlit process on this machine's loopback out.

The app reads the store's address from the environment, because Streamlit runs it as a script of its own.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tljobs.errors import TljobsError, UsageError
from tljobs.store import open_store

ADDRESS = "127.0.0.1"
DEFAULT_PORT = 8501
DEFAULT_STORE = "./tljobs-store"
MAX_UPLOAD_MB = 20  # a camera's JPEG fits; many of them at once do not fill the memory

# On the command line they win over any configuration file of the user.
SECURE_OPTIONS: dict[str, str | list[str]] = {
    "server.address": ADDRESS,
    "server.allowedHosts": [ADDRESS, "localhost"],
    "server.enableXsrfProtection": "true",
    "server.enableCORS": "true",
    "server.enableStaticServing": "false",
    "server.enableAgentApi": "false",
    "server.maxUploadSize": str(MAX_UPLOAD_MB),
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "viewer",
    "browser.gatherUsageStats": "false",
}
# Set for both schemes: a colour for all of them would switch off the choice by the user's system.
THEME_OPTIONS = {"theme.light.primaryColor": "#2f6fde", "theme.dark.primaryColor": "#7aa5f0"}


def launch(store_uri: str, endpoint_url: str | None, port: int, browser: bool) -> int:
    """Serves the dashboard of a store until it is interrupted; returns the exit code.

    Args:
        store_uri: a folder or `s3://bucket/prefix`.
        endpoint_url: server of an S3 store; None for AWS or a folder.
        port: TCP port on 127.0.0.1.
        browser: whether to open the page in the user's browser.

    Raises:
        UsageError: Streamlit is not installed, the store's address is malformed, or the port is taken.
    """
    try:
        from streamlit.web import cli
    except ImportError as error:
        raise UsageError("the dashboard is not installed", str(error), "pip install 'tljobs[dashboard]'") from error

    store = open_store(store_uri, endpoint_url)
    _check_port_is_free(port)
    os.environ["TLJOBS_STORE"] = store.uri
    if endpoint_url:
        os.environ["AWS_ENDPOINT_URL"] = endpoint_url
    app = str(Path(__file__).with_name("app.py"))
    cli.main(["run", app, *server_options(port, browser)], prog_name="tljobs dashboard", standalone_mode=False)
    return 0


def server_options(port: int, browser: bool) -> list[str]:
    """The command-line options of `streamlit run`: the secure defaults, the port, and whether a browser opens."""
    options: dict[str, str | list[str]] = {
        **SECURE_OPTIONS,
        **THEME_OPTIONS,
        "server.port": str(port),
        "server.headless": "false" if browser else "true",
    }
    return [
        f"--{name}={value}"
        for name, values in options.items()
        for value in (values if isinstance(values, list) else [values])
    ]


def _check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except (OSError, OverflowError) as error:
            raise UsageError(
                "the port cannot be used", f"{ADDRESS}:{port}", f"Choose another --port ({error})"
            ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `python -m dashboard`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dashboard", description="Opens the dashboard of a store.")
    parser.add_argument("--store", default=os.environ.get("TLJOBS_STORE", DEFAULT_STORE), help="folder or s3://…")
    parser.add_argument("--endpoint-url", default=os.environ.get("AWS_ENDPOINT_URL"), help="server of an S3 store")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port on this machine (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    given = parser.parse_args(arguments)
    try:
        return launch(given.store, given.endpoint_url, given.port, browser=not given.no_browser)
    except TljobsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
