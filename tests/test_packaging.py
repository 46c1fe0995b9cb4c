"""The border between the distribution's base and its extras: what an import loads (pyproject.toml)."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from host_agent.protocol import level, stamp, units
from mfs_ctrl.cli import COMMANDS
from soft_switch.queues import arbiter, traffic_manager
from soft_switch.realtime import packet_socket
from tests.support.imports import modules_loaded_by

ROOT = Path(__file__).parents[1]
FORBIDDEN = ("grpc", "google.protobuf", "p4", "p4runtime_sh", "scapy", "numpy", "matplotlib", "pydantic", "rich")
HOST_AGENT = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "host_agent").rglob("*.py")
    if path.stem not in ("__init__", "scapy_layer", "cli", "command_line", "metrics_route")
    # What runs in the agent's process, and what runs in vLLM's.
    and path.parent.name not in ("daemon", "vllm")
)


def loaded_by(*modules: str) -> set[str]:
    """All modules that importing ``modules`` loads."""
    return modules_loaded_by(f"import importlib; [importlib.import_module(name) for name in {list(modules)!r}]")


def beyond(allowed: set[str], modules: set[str]) -> set[str]:
    """The top-level packages of ``modules`` that are neither the standard library's nor ``allowed``."""
    return {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - allowed


def forbidden(modules: set[str]) -> set[str]:
    return {name for name in modules if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)}


def test_the_host_agent_needs_only_the_standard_library() -> None:
    assert "host_agent.protocol.flow_spec" in HOST_AGENT
    modules = loaded_by("host_agent", *HOST_AGENT)
    assert modules >= set(HOST_AGENT)
    assert forbidden(modules) == set()
    assert beyond({"host_agent"}, modules) == set()


@pytest.mark.parametrize("module", HOST_AGENT)
def test_no_module_of_the_host_agent_names_another_package(module: str) -> None:
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
    imported = {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.lstrip().startswith(("import ", "from "))
    }
    assert imported <= set(sys.stdlib_module_names) | {"host_agent"}


def test_the_command_line_needs_only_click_to_start() -> None:
    modules = loaded_by("mfs_ctrl.cli")
    assert forbidden(modules) == set()
    assert beyond({"mfs_ctrl", "host_agent", "soft_switch", "click"}, modules) == set()


def test_help_needs_click_alone() -> None:
    modules = loaded_by(*(entry.partition(":")[0] for entry in COMMANDS.values()))
    assert forbidden(modules) == set()
    assert (
        beyond({"host_agent", "soft_switch", "p4src", "topologies", "mfs_ctrl", "mfs_eval", "click"}, modules) == set()
    )


def test_the_agent_on_a_server_also_needs_pyroute2() -> None:
    modules = loaded_by("host_agent.daemon.service")
    assert forbidden(modules) == set()
    # multiprocessing, which pyroute2 imports, knows the main module by another name. It uses psutil if installed.
    assert beyond({"host_agent", "pyroute2", "__mp_main__", "psutil"}, modules) == set()


def test_expected_errors_of_the_command_line_load_nothing_else() -> None:
    modules = loaded_by(
        "mfs_eval.errors", "host_agent.ebpf.errors", "mfs_ctrl.errors", "p4src.artifact", "soft_switch.errors"
    )
    assert forbidden(modules) == set()


def test_computing_what_to_write_needs_neither_protobuf_nor_grpc() -> None:
    modules = loaded_by("mfs_ctrl.desired", "mfs_ctrl.writer")
    assert forbidden(modules) == set()
    assert beyond({"mfs_ctrl", "topologies", "soft_switch", "host_agent"}, modules) == set()


def test_the_switch_and_the_hosts_agree_on_constants_that_both_define() -> None:
    # The embedded switch is independent of the host agent, so each has its own.
    assert units.WIRE_OVERHEAD_BYTES == traffic_manager.WIRE_OVERHEAD_BYTES
    assert level.GUARANTEED_SHARE == arbiter.DEFAULT_SHARE
    assert stamp.LEVELS == traffic_manager.QUEUES
    assert units.ETHERNET_HEADER_BYTES == packet_socket.ETHERNET_HEADER_BYTES


def test_the_base_installs_neither_protobuf_nor_grpc() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert [requirement.partition(">")[0] for requirement in project["dependencies"]] == ["click"]
    assert {"ctrl", "eval", "net", "scapy"} <= project["optional-dependencies"].keys()


def test_the_controller_does_not_install_the_shell_which_pins_protobuf() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert not [requirement for requirement in extras["ctrl"] if "shell" in requirement or "<" in requirement]
    assert any(requirement.startswith("p4runtime-shell") for requirement in extras["shell"])


def test_every_package_is_installed_with_its_data() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    for path in ROOT.glob("*/**/__init__.py"):
        package = path.parent.relative_to(ROOT)
        if package.parts[0] not in ("tests", "out", "build", "dist") and not package.parts[0].startswith("."):
            assert ".".join(package.parts) in setuptools["packages"]
    for package, patterns in setuptools["package-data"].items():
        for pattern in patterns:
            assert package == "*" or list((ROOT / package.replace(".", "/")).glob(pattern)), (
                f"{package} has no {pattern}"
            )
