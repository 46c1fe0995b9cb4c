"""Fixtures that several files of tests share, and how property tests run: the same examples each time, however slow the
machine. ``pytest --hypothesis-profile=explore`` searches for others.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import soft_switch.p4runtime  # noqa: F401  (makes `p4.v1` importable)
from soft_switch.backend import ENVIRONMENT_VARIABLE
from tests.support.native import no_machine_code

SLOW = (
    "conformance/",
    "examples/",
    "host_agent/engines/test_collectives.py",
    "host_agent/engines/test_shared.py",
    "host_agent/engines/test_soak.py",
    "host_agent/engines/test_transports.py",
    "host_agent/engines/test_vllm.py",
    "host_agent/test_access.py",
    "host_agent/test_agent_host.py",
    "host_agent/test_agent_requests.py",
    "host_agent/test_carriers_alive.py",
    "host_agent/test_option_host.py",
    "host_agent/test_agent_rdma.py",
    "mfs_ctrl/test_cli.py",
    "mfs_ctrl/test_command_conventions.py",
    "mfs_ctrl/test_controller.py",
    "mfs_ctrl/test_controller_failures.py",
    "mfs_ctrl/test_example_policies.py",
    "mfs_ctrl/test_fabric.py",
    "mfs_ctrl/test_looking.py",
    "mfs_ctrl/test_metrics.py",
    "mfs_ctrl/test_policy_file.py",
    "mfs_ctrl/test_session_tls.py",
    "mfs_eval/explain/",
    "mfs_eval/packet_level/test_tcp_agreement.py",
    "mfs_eval/packet_level/test_tcp_policies.py",
    "mfs_eval/test_ablation.py",
    "mfs_eval/test_advise.py",
    "mfs_eval/test_coordination.py",
    "mfs_eval/test_demo.py",
    "mfs_eval/test_experiment.py",
    "mfs_eval/test_fabric_bench.py",
    "mfs_eval/test_fault_study.py",
    "mfs_eval/test_faults.py",
    "mfs_eval/test_flow_agreement.py",
    "mfs_eval/test_live.py",
    "mfs_eval/test_pruning_study.py",
    "mfs_eval/test_public_api.py",
    "mfs_eval/test_report.py",
    "mfs_eval/test_runner.py",
    "mfs_eval/test_scenarios.py",
    "mfs_eval/test_serve.py",
    "mfs_eval/test_stranding.py",
    "mfs_eval/test_testbed.py",
    "mfs_eval/test_tuned_tick.py",
    "mfs_eval/test_tuner_loop.py",
    "mfs_eval/test_versions.py",
    "p4src/test_mfs_program.py",
    "p4src/test_option.py",
    "p4src/test_registration.py",
    "p4src/test_random_packets.py",
    "soft_switch/p4runtime/",
    "soft_switch/test_native.py",
    "soft_switch/test_realtime_switch.py",
    "soft_switch/test_stf.py",
    "topologies/",
)
"""Tests that take seconds, start processes or need root, by path below ``tests``: ``make fast`` leaves them out."""

_SLOW_MACHINE = (HealthCheck.too_slow,)

settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=_SLOW_MACHINE)
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=_SLOW_MACHINE)
settings.load_profile("repeatable")

# A shell ignores SIGINT for what it runs in the background, and the commands that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of :data:`SLOW`."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.relative_to(folder).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", params=["python", "c"])
def run_as(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a file's tests twice: pipelines are Python, then machine code."""
    if request.param == "c" and no_machine_code():
        pytest.skip(no_machine_code())
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ[ENVIRONMENT_VARIABLE] = request.param
    yield request.param
    if before is None:
        del os.environ[ENVIRONMENT_VARIABLE]
    else:
        os.environ[ENVIRONMENT_VARIABLE] = before


def _left_running() -> list[str]:
    """Threads that a test has left, and for which the interpreter would wait for ever."""
    main = threading.main_thread()
    return [thread.name for thread in threading.enumerate() if thread is not main and not thread.daemon]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End, with a failure, although threads are left: a run that hangs after its summary says nothing."""
    if left := _left_running():
        print(f"tests left threads running: {', '.join(left)}", flush=True)
        os._exit(pytest.ExitCode.TESTS_FAILED)
