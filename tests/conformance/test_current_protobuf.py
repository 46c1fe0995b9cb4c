"""Controller and P4Runtime server under the newest protobuf.

The environment of the other tests has protobuf 3.20, because p4runtime-shell requires it. Here pip makes one with what
the ``ctrl`` extra resolves to without the shell, and a part of the tests runs in it. The environment is kept in
``.pytest_cache`` and reused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHOSEN = (
    "tests/soft_switch/p4runtime",
    "tests/mfs_ctrl/test_controller.py",
    "tests/mfs_ctrl/test_controller_failures.py",
    "tests/mfs_ctrl/test_desired.py",
    "tests/mfs_ctrl/test_writer.py",
    "tests/mfs_ctrl/test_tofino_config.py",
    "tests/mfs_ctrl/test_tofino_queues.py",
)
INSTALL_TIMEOUT_S = 600
TESTS_TIMEOUT_S = 1200


def requirements() -> list[str]:
    """Requirements of the controller and of its tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["ctrl"], *extras["scapy"], *extras["test"]]
    return [requirement for requirement in wanted if not requirement.startswith("mfs-switch")]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment."""
    wanted = requirements()
    key = hashlib.sha256(repr((sys.version, wanted)).encode()).hexdigest()[:16]
    folder = ROOT / ".pytest_cache" / f"current-protobuf-{key}"
    interpreter = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        install = [str(interpreter), "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20"]
        try:
            done = subprocess.run([*install, *wanted], capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pytest.skip(f"pip did not finish within {INSTALL_TIMEOUT_S} s")
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
            pytest.skip(f"pip cannot install the newest protobuf: {reasons[-1]}")
        complete.touch()
    return interpreter


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    command = [str(python), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TESTS_TIMEOUT_S, check=False
    )


def test_the_environment_has_the_compiled_protobuf_and_no_shell(python: Path) -> None:
    probe = (
        "import importlib.util; from google.protobuf import __version__; "
        "from google.protobuf.internal import api_implementation; "
        "print(__version__, api_implementation.Type(), importlib.util.find_spec('p4runtime_sh'))"
    )
    version, implementation, shell = run(python, "-c", probe).stdout.split()
    assert int(version.partition(".")[0]) >= 4
    assert (implementation, shell) == ("upb", "None")


def test_controller_and_server_pass_their_tests_under_the_newest_protobuf(python: Path) -> None:
    done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *CHOSEN)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]
