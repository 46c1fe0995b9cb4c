"""Agents as the controller hears them, and ports where nobody takes stamps off."""

from __future__ import annotations

import dataclasses
import logging
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.ebpf.policy import PolicySource
from host_agent.protocol.agent_header import LENGTH_MAX, AgentIdentity
from mfs_ctrl import agents, policies
from mfs_ctrl.agents import ALIVE_S, Agents, left_on
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.policy_server import PolicyServer
from tests.support.controller import MILLISECOND_NS, TOPOLOGY, controller, serving

HOSTS = TOPOLOGY.hosts
SHIM = AgentIdentity(HOSTS[0].mac.hex(":"), "eth0", "shim", "0.2.0")
OPTION = dataclasses.replace(SHIM, carrier="option")


def test_an_identity_survives_its_header() -> None:
    assert AgentIdentity.from_header(SHIM.to_header()) == SHIM


@given(st.text(max_size=2 * LENGTH_MAX))
def test_no_header_harms_the_register(header: str) -> None:
    register = Agents(lambda: 0.0)
    register.heard(header)
    assert all(len(agent.mac) <= 64 for agent in register.alive())


def test_an_agent_that_is_not_heard_any_more_is_forgotten() -> None:
    now_s = 0.0
    register = Agents(lambda: now_s)
    register.heard(SHIM.to_header())
    assert register.alive() == (SHIM,)
    now_s = ALIVE_S + 1
    assert register.alive() == ()


def test_a_client_that_claims_many_names_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "AGENTS_MAX", 10)
    register = Agents(lambda: 0.0)
    for number in range(100):
        register.heard(dataclasses.replace(SHIM, mac=f"mac{number}").to_header())
    assert len(register.alive()) == 10


def test_ports_where_nobody_takes_shims_off_are_named() -> None:
    now_s = 0.0

    def heard(*identities: AgentIdentity) -> Agents:
        nonlocal now_s
        register = Agents(lambda: now_s)
        for _ in range(2):
            for identity in identities:
                register.heard(identity.to_header())
            now_s += ALIVE_S
        return register

    others = [host.port for host in HOSTS[1:]]
    text = left_on(HOSTS, (), heard(SHIM))
    assert f"ports {', '.join(map(str, others))}, where no agent is heard, while {SHIM.mac} (eth0) sends" in text
    assert "stamp_unaware_ports" in text
    assert left_on(HOSTS, others, heard(SHIM)) == ""
    assert left_on(HOSTS, (), heard(OPTION)) == ""
    everywhere = [dataclasses.replace(SHIM, mac=host.mac.hex(":").upper()) for host in HOSTS]
    assert left_on(HOSTS, (), heard(*everywhere)) == ""
    # The agents of a rack do not start at once.
    young = Agents(lambda: 0.0)
    young.heard(SHIM.to_header())
    assert left_on(HOSTS, (), young) == ""


def test_a_controller_says_so_once_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mfs_ctrl")
    now_s = 0.0
    with serving() as (_, switch), PolicyServer("0", clock=lambda: now_s) as server:
        loop = ControlLoop(controller(switch), switch.address)
        loop.controller.on_policy = server.publish
        loop.agents = server.agents
        loop.start(0)
        assert PolicySource(server.url, identity=SHIM).fetch() is not None
        now_s = ALIVE_S
        for tick in range(1, 4):
            loop.tick(tick * MILLISECOND_NS)
        assert list(loop.conditions) == ["stamps"]
        for host in HOSTS:
            identity = dataclasses.replace(OPTION, mac=host.mac.hex(":"))
            PolicySource(server.url, identity=identity).fetch()
        loop.tick(4 * MILLISECOND_NS)
        loop.controller.stop()
    told = [record.getMessage() for record in caplog.records if "takes stamps off" in record.getMessage()]
    assert len(told) == 2
    assert told[1] == f"over: {told[0]}"
    assert loop.conditions == {}


def test_others_than_agents_may_read_the_policy_and_are_no_agents() -> None:
    with PolicyServer("0") as server:
        server.publish(policies.mfs(), {})
        urllib.request.urlopen(f"{server.url}/policy", timeout=5).close()
        assert server.agents.alive() == ()
