"""``mfs doctor``: looks at everything that a part of the system needs here; each line is ok, or says what to do."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from host_agent.protocol.paths import AGENT_SOCKET
from mfs_ctrl.reading import JSON

if TYPE_CHECKING:
    from host_agent.findings import Finding

PACKAGES = {"net": ("pyroute2",), "ctrl": ("grpcio", "protobuf", "p4runtime", "pydantic", "prometheus-client")}
"""The packages of the extras that servers, and controller or switch, need."""
CLOCK_S = 5.0
"""A difference of clocks that is worth a line: logs cannot be compared, and certificates may not be valid yet."""


@click.command(short_help="Check this machine: each line is ok, or says what to do.")
@click.option("--interface", help="Check this interface for an agent, too.")
@click.option("--address", help="Check the switch at this P4Runtime address, too.")
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
        found += _switch(address, tls_ca)
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


def _switch(address: str, tls_ca: Path | None) -> Iterator[Finding]:
    from host_agent.findings import Finding
    from mfs_ctrl.errors import ControlError
    from mfs_ctrl.p4rt.channel import TlsFiles
    from mfs_ctrl.p4rt.reader import Reader
    from mfs_ctrl.status_command import program_name
    from p4src.artifact import V1MODEL

    try:
        with Reader(address, tls=TlsFiles(tls_ca) if tls_ca else None) as reader:
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
    from mfs_ctrl.status_command import Unanswered, ask

    try:
        status, date = ask(url, tls_ca)
    except Unanswered as error:
        yield Finding("fail", "controller", str(error))
        return
    theirs, ours = status["version"], installed_version()
    other = "" if theirs == ours else f"; this machine has {ours}: install one version everywhere"
    text = f"{url} answers, version {theirs}, policy {status['policy']}{other}"
    yield Finding("note" if other else "ok", "controller", text)
    for condition in status["conditions"].values():
        yield Finding("fail", "controller", condition)
    apart_s = time.time() - parsedate_to_datetime(date).timestamp() if date else 0.0
    if abs(apart_s) > CLOCK_S:
        text = (
            f"this clock differs from the controller's by {apart_s:.0f} s; synchronise both, for logs and certificates"
        )
        yield Finding("note", "clocks", f"{text} (stamps need no clock)")
    else:
        yield Finding("ok", "clocks", "as the controller's, to the seconds that HTTP tells")
