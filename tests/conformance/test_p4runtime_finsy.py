"""The server controlled by an unmodified finsy, which needs a later protobuf than this project, so a separate Python:

python3 -m venv finsy-venv && finsy-venv/bin/pip install finsy
FINSY_PYTHON=finsy-venv/bin/python .venv/bin/python -m pytest tests/conformance/test_p4runtime_finsy.py
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.p4runtime import DEVICE_ID, JSON, P4INFO, running_server


def test_finsy_controls_the_switch() -> None:
    python = os.environ.get("FINSY_PYTHON")
    if not python:
        pytest.skip("FINSY_PYTHON does not name a Python with finsy")
    with running_server(with_program=False) as server:
        script = Path(__file__).parents[1] / "support" / "finsy_client.py"
        command = [python, str(script), f"127.0.0.1:{server.port}", str(DEVICE_ID), str(P4INFO), str(JSON)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.endswith("ok\n"), done.stdout + done.stderr
    assert done.returncode == 0
