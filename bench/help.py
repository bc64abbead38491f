"""P9: `tljobs --help` against a bare cyclopts program. Goal: at most 1.3 times, no heavy import."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from pairs import in_turn, report

BARE = """
from cyclopts import App

app = App(name="bare", help="A bare program.")

@app.command
def go(x: int = 1): ...

app()
"""
ROUNDS = 10


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE)
        contenders = {
            "bare cyclopts program": [sys.executable, str(bare), "--help"],
            "tljobs --help": [sys.executable, "-m", "tljobs", "--help"],
        }
        seconds = in_turn(
            {
                name: lambda command=command: subprocess.run(command, check=True, capture_output=True)
                for name, command in contenders.items()
            },
            ROUNDS,
        )
    report("P9 --help", seconds, "bare cyclopts program", 1, "starts")


if __name__ == "__main__":
    main()
