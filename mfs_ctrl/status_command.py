"""``mfs status``: switches, controller and agents in one view, by reading alone."""

from __future__ import annotations

import functools
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from host_agent.command_line import JSON
from host_agent.protocol.errors import MfsError
from host_agent.protocol.units import DEFAULT_P4RUNTIME_ADDRESS
from mfs_ctrl.reading import of_system

if TYPE_CHECKING:
    from mfs_ctrl.p4rt.reader import HeldProgram

TIMEOUT_S = 3.0
SIZE_MAX = 1 << 24
"""Bytes of a status: a port takes a hundred."""
AT_ONCE = 16
"""Switches that are asked at a time."""


class Unanswered(MfsError):
    """A part of the system does not answer."""


@click.command(short_help="Show switches, controller and agents.")
@of_system
@JSON
def status(
    address: str | None, device_id: int, controller: str, tls_ca: Path | None, run_dir: Path, as_json: bool
) -> None:
    """Show switches, controller and agents in one view. It only reads, and takes nobody's place.

    Without --address, the controller tells which switches there are. The exit status is 1 if a switch or the controller
    does not answer, or if the controller says that something is wrong.
    """
    told = or_error(lambda: {"url": controller, **ask(controller, tls_ca)[0]})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = {
            name: pool.submit(or_error, functools.partial(_switch, where, device, tls_ca))
            for name, where, device in targets(told, address, device_id)
        }
        switches = {name: answer.result() for name, answer in asked.items()}
    found = {"switches": switches, "controller": told, "agents": agents_in(run_dir)}
    if as_json:
        click.echo(json.dumps(found))
    else:
        for line in lines(found):
            click.echo(line)
    if any("error" in part for part in (told, *switches.values())) or any(wrong(told)):
        sys.exit(1)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the status for people."""
    switches, controller, agents = found["switches"], found["controller"], found["agents"]
    for name, switch in switches.items():
        if "error" in switch:
            yield f"switch      {switch['error']}"
        else:
            ports = f"; {len(switch['ports'])} ports" if switch["ports"] else ""
            yield f"switch      {titled(name, switch['address'])}: {switch['program'] or 'no program'}{ports}"
    if "error" in controller:
        yield f"controller  {controller['error']}"
    else:
        yield f"controller  {controller['url']}, version {controller['version']}"
        for name, told in controller["switches"].items():
            yield (
                f"  {role(told):9} of {titled(name, told['address'])}, policy {told['policy']}, {told['ticks']} ticks, "
                f"the last in {told['tick_s'] * 1000:.0f} ms"
            )
            for reason, packets in told["discards"].items():
                yield f"  discards  {packets} packets: {reason}"
        for condition in wrong(controller):
            yield f"  wrong     {condition}"
        for agent in controller["agents"]:
            yield f"  agent     {agent['mac']} {agent['interface']}, {agent['carrier']}, version {agent['version']}"
    for path, agent in agents.items():
        if "error" in agent:
            yield f"agent here  {agent['error']}"
        else:
            policy, flows = agent["policy"], len(agent["flows"])
            yield (
                f"agent here  {path}: {agent['interface']}, policy {policy['name'] or 'none yet'}, controller: "
                f"{policy['controller']}; {agent['counters']['stamped']} packets stamped, {flows} flows open"
            )


def role(told: Mapping[str, Any]) -> str:
    """Return what a controller is to a switch, given what it tells of it."""
    return "primary" if told["primary"] else "backup" if told["connected"] else "not connected"


def titled(name: str, address: str) -> str:
    """Return name and address of a switch; one that is alone is called by its address."""
    return address if name == address else f"{name} ({address})"


def wrong(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong according to a controller's status; each switch that has a name is named."""
    yield from told["conditions"].values()
    for name, switch in told["switches"].items():
        prefix = "" if name == switch["address"] else f"{name}: "
        yield from (f"{prefix}{condition}" for condition in switch["conditions"].values())
        if not switch["connected"] and not switch["conditions"]:
            yield f"{prefix}not connected yet"


def targets(told: Mapping[str, Any], address: str | None, device_id: int) -> list[tuple[str, str, int]]:
    """Return name, address and device id of the switches to look at.

    These are the one at ``address`` or, if that is None, those of the controller that told this; if it told nothing,
    the one at the default address.
    """
    if address is None and "error" not in told:
        return [(name, switch["address"], switch["device_id"]) for name, switch in told["switches"].items()]
    where = address or DEFAULT_P4RUNTIME_ADDRESS
    return [(where, where, device_id)]


def ask(url: str, tls_ca: Path | None = None) -> tuple[dict[str, Any], str]:
    """Return the status of the controller at ``url``, and the date of its answer as HTTP has it.

    Raises:
        Unanswered: it does not answer, or with something else.
    """
    import ssl

    where = f"{url.rstrip('/')}/status"
    try:
        context = ssl.create_default_context(cafile=tls_ca) if url.startswith("https://") else None
        with urllib.request.urlopen(where, timeout=TIMEOUT_S, context=context) as answer:
            document = json.loads(answer.read(SIZE_MAX))
            return {**document, "switches": dict(document["switches"])}, answer.headers.get("Date", "")
    except (OSError, HTTPException, ValueError, TypeError, KeyError) as error:
        reason = getattr(error, "reason", error)
        raise Unanswered(
            f"no controller answers at {where} ({reason}); mfs ctrl serves it with --policy-listen"
        ) from None


def program_name(held: HeldProgram) -> str:
    """Return the name of the bundled program, if the switch runs that, or the description of another."""
    from mfs_ctrl.p4rt.p4info import P4InfoIndex, describe
    from p4src.artifact import V1MODEL, p4info

    return V1MODEL if held.p4info == P4InfoIndex.from_text(p4info()).message else describe(held.p4info)


def _switch(address: str, device_id: int, tls_ca: Path | None) -> dict[str, Any]:
    from mfs_ctrl.p4rt.channel import TlsFiles
    from mfs_ctrl.p4rt.reader import Reader

    with Reader(address, device_id, TlsFiles(tls_ca) if tls_ca else None, TIMEOUT_S) as reader:
        held = reader.program()
        rates = {str(port): {"rate_bps": rate} for port, rate in reader.port_rates().items()}
    return {"address": address, "program": None if held is None else program_name(held), "ports": rates}


def agents_in(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the status of each agent whose socket is in ``run_dir``, by its path; or why it does not answer."""
    return {str(path): or_error(functools.partial(_agent, path)) for path in sorted(run_dir.glob("*.sock"))}


def _agent(path: Path) -> dict[str, Any]:
    from host_agent.client import AgentClient

    with AgentClient(path) as client:
        return client.status()


def or_error(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``call`` does, or its expected error as ``{"error": TEXT}``."""
    try:
        return call()
    except MfsError as error:
        return {"error": str(error)}
