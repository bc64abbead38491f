"""Starting the dashboard: secure options, ports, and what it does not import."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit import config

from dashboard.__main__ import SECURE_OPTIONS, launch, main, server_options
from tljobs.errors import UsageError


def test_the_server_listens_on_this_machine_only_and_trusts_only_its_names() -> None:
    options = server_options(8599, browser=False)
    assert "--server.address=127.0.0.1" in options
    assert [each for each in options if "allowedHosts" in each] == [
        "--server.allowedHosts=127.0.0.1",
        "--server.allowedHosts=localhost",
    ]
    for name, value in {
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "server.maxUploadSize": "20",
        "server.fileWatcherType": "none",
        "client.showErrorDetails": "none",
        "browser.gatherUsageStats": "false",
        "server.port": "8599",
    }.items():
        assert f"--{name}={value}" in options


def test_every_option_exists_in_this_streamlit() -> None:
    known = set(config.get_config_options())
    assert {option.removeprefix("--").partition("=")[0] for option in server_options(1, browser=True)} <= known
    assert set(SECURE_OPTIONS) <= known


def test_a_browser_opens_unless_told_otherwise() -> None:
    assert "--server.headless=false" in server_options(1, browser=True)
    assert "--server.headless=true" in server_options(1, browser=False)


def test_a_taken_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}"):
            launch(str(tmp_path), None, port, browser=False)
        assert main(["--store", str(tmp_path), "--port", str(port), "--no-browser"]) == 2
    assert "Choose another --port" in capsys.readouterr().err


def test_an_unknown_kind_of_store_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", "ftp://somewhere", "--no-browser"]) == 2
    assert "unknown kind of store: ftp://somewhere" in capsys.readouterr().err


def test_without_streamlit_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['streamlit'] = None\n"
        "from dashboard.__main__ import main; sys.exit(main(['--no-browser']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "pip install 'tljobs[dashboard]'" in done.stderr


def test_the_dashboard_imports_no_heavy_library() -> None:
    program = (
        "import sys, dashboard.__main__, dashboard.app\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'keras', 'ray'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
