"""``mfs doctor``: looks at everything that a part of the system needs here; each line is ok, or says what to do."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from host_agent.command_line import JSON
from host_agent.protocol.paths import AGENT_SOCKET

if TYPE_CHECKING:
    from host_agent.findings import Finding
    from mfs_ctrl.p4rt.channel import TlsFiles

PACKAGES = {"net": ("pyroute2",), "ctrl": ("grpcio", "protobuf", "p4runtime", "pydantic", "prometheus-client")}
"""The packages of the extras that servers, and controller or switch, need."""
CLOCK_S = 5.0
"""A difference of clocks that is worth a line: logs cannot be compared, and certificates may not be valid yet."""


@click.command(short_help="Check this machine: each line is ok, or says what to do.")
@click.option("--interface", help="Check this interface for an agent, too.")
@click.option("--address", help="Check the switch at this P4Runtime address, too.")
@click.option(
    "--fabric",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Check this file of a fabric and its switches, too.",
)
@click.option("--policy-url", metavar="URL", help="Check the controller that serves the policy here, too.")
@click.option("--tls-ca", type=click.Path(path_type=Path, dir_okay=False), help="Authorities (PEM) for both.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=AGENT_SOCKET,
    show_default=True,
    help="Unix socket of the agent.",
)
@JSON
def doctor(
    interface: str | None,
    address: str | None,
    fabric: Path | None,
    policy_url: str | None,
    tls_ca: Path | None,
    socket: Path,
    as_json: bool,
) -> None:
    """Check this machine: kernel, permissions, packages, interface, clocks, and whether switch and controller answer.

    It reads only. Each line is `ok`, `note` (it works, but read it) or `fail` (and what to do). The exit status is 1 if
    a line is `fail`.
    """
    from host_agent.findings import server, socket_of

    found: list[Finding] = [*_versions(), *server(interface), _compiler(), socket_of(socket)]
    if address is not None:
        found += _switch(address, tls=_tls(tls_ca))
    if fabric is not None:
        found += _fabric(fabric)
    if policy_url is not None:
        found += _controller(policy_url, tls_ca)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in found]))
    else:
        for finding in found:
            click.echo(str(finding))
    if any(finding.grade == "fail" for finding in found):
        sys.exit(1)


def _versions() -> Iterator[Finding]:
    from host_agent.findings import Finding
    from host_agent.version import installed_version

    yield Finding("ok", "version", f"{installed_version()}, Python {platform.python_version()}")
    for extra, names in PACKAGES.items():
        held, missing = [], []
        for name in names:
            try:
                held.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                missing.append(name)
        if missing:
            text = f"{', '.join(missing)} missing; needed here? pip install '.[{extra}]'"
            yield Finding("note", "packages", text)
        else:
            yield Finding("ok", "packages", f"[{extra}] {', '.join(held)}")


def _compiler() -> Finding:
    from host_agent.findings import Finding

    if any(map(shutil.which, ("cc", "gcc", "clang"))):
        return Finding("ok", "compiler", "there is one, so the embedded switch runs as machine code")
    return Finding("note", "compiler", "no C compiler: the embedded switch runs as Python, which is slow; install gcc")


def _tls(ca: Path | None) -> TlsFiles | None:
    from mfs_ctrl.p4rt.channel import TlsFiles

    return TlsFiles(ca) if ca else None


def _fabric(path: Path) -> Iterator[Finding]:
    from host_agent.findings import Finding
    from mfs_ctrl import fabric_file
    from mfs_ctrl.errors import ConfigError
    from mfs_ctrl.fabric import P4RUNTIME
    from mfs_ctrl.status_command import AT_ONCE

    try:
        specs = fabric_file.read(path)
    except ConfigError as error:
        yield Finding("fail", "fabric", str(error))
        return
    yield Finding("ok", "fabric", f"{path}: {len(specs)} switches to control, policy {specs[0].policy.name}")
    over_p4runtime = [spec for spec in specs if spec.target == P4RUNTIME]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # Side by side: those that do not answer take seconds.
        asked = pool.map(lambda spec: list(_switch(spec.address, spec.device_id, spec.tls)), over_p4runtime)
        for spec, findings in zip(over_p4runtime, asked, strict=True):
            yield from (dataclasses.replace(finding, text=f"{spec.name}: {finding.text}") for finding in findings)


def _switch(address: str, device_id: int = 1, tls: TlsFiles | None = None) -> Iterator[Finding]:
    from host_agent.findings import Finding
    from mfs_ctrl.errors import ControlError
    from mfs_ctrl.p4rt.reader import Reader
    from mfs_ctrl.status_command import program_name
    from p4src.artifact import V1MODEL

    try:
        with Reader(address, device_id, tls) as reader:
            held = reader.program()
            rates = reader.port_rates()
    except ControlError as error:
        yield Finding("fail", "switch", str(error))
        return
    ports = f", {len(rates)} ports" if rates else ""
    if held is None:
        yield Finding("note", "switch", f"{address} answers{ports}, runs no program; mfs ctrl loads it")
    elif (name := program_name(held)) == V1MODEL:
        yield Finding("ok", "switch", f"{address} answers{ports}, runs this version's program")
    else:
        text = f"{address} answers{ports}, runs {name}; mfs ctrl replaces it with --replace only"
        yield Finding("note", "switch", text)


def _controller(url: str, tls_ca: Path | None) -> Iterator[Finding]:
    from host_agent.findings import Finding
    from host_agent.version import installed_version
    from mfs_ctrl.status_command import Unanswered, ask, role, titled, wrong

    try:
        status, date = ask(url, tls_ca)
    except Unanswered as error:
        yield Finding("fail", "controller", str(error))
        return
    theirs, ours = status["version"], installed_version()
    other = "" if theirs == ours else f"; this machine has {ours}: install one version everywhere"
    switches = ", ".join(
        f"{role(told)} of {titled(name, told['address'])} (policy {told['policy']})"
        for name, told in status["switches"].items()
    )
    yield Finding("note" if other else "ok", "controller", f"{url} answers, version {theirs}: {switches}{other}")
    for condition in wrong(status):
        yield Finding("fail", "controller", condition)
    apart_s = time.time() - parsedate_to_datetime(date).timestamp() if date else 0.0
    if abs(apart_s) > CLOCK_S:
        text = (
            f"this clock differs from the controller's by {apart_s:.0f} s; synchronise both, for logs and certificates"
        )
        yield Finding("note", "clocks", f"{text} (stamps need no clock)")
    else:
        yield Finding("ok", "clocks", "as the controller's, to the seconds that HTTP tells")
