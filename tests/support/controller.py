"""The embedded switch served over gRPC, and controllers and packets for it: shared by tests of the controller."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from host_agent.http_endpoint import Listen
from host_agent.protocol.stamp import ETHERTYPE_MFS, Flags, Stage, Stamp
from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.fabric import P4RUNTIME, SwitchSpec
from mfs_ctrl.p4rt.entries import Entity
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.policy.policy import Policy
from mfs_ctrl.service import Described, Settings, run
from p4src.artifact import load
from soft_switch.backend import backend_of_environment
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch
from topologies.topology import Topology, tor

TOPOLOGY = tor(servers=2, nics=2, rate_bps=1_000_000_000)
ARTIFACT = load()
INDEX = P4InfoIndex.from_text(ARTIFACT.p4info)
MILLISECOND_NS = 1_000_000


@contextmanager
def serving(address: str = "127.0.0.1:0") -> Iterator[tuple[Switch, P4RuntimeServer]]:
    """A switch with the topology's ports and its server."""
    switch = Switch()
    for port in TOPOLOGY.ports:
        switch.add_port(port, TOPOLOGY.rate_bps)
    server = P4RuntimeServer(switch, address=address, backend=backend_of_environment())
    server.start()
    try:
        yield switch, server
    finally:
        server.stop()


def controller(
    server: P4RuntimeServer,
    policy: Policy | None = None,
    election_id: int = 10,
    tune: bool = False,
    **more: object,
) -> Controller:
    session = Session(server.address, election_id=election_id)
    return Controller(
        session, ARTIFACT, TOPOLOGY, policy or policies.mfs(), tune_thresholds=tune, tune_bias=tune, **more
    )  # type: ignore[arg-type]


@contextmanager
def open_session(server: P4RuntimeServer, election_id: int = 10) -> Iterator[Session]:
    session = Session(server.address, election_id=election_id)
    session.connect()
    try:
        yield session
    finally:
        session.close()


def state(server: P4RuntimeServer) -> set[Entity]:
    """Everything that the switch holds, read by a separate client."""
    with open_session(server, election_id=1) as session:
        return set(session.read_state(INDEX))


def packet(stamp: Stamp | None, source: int = 0, target: int = 1, to: str | None = None, ttl: int = 64) -> bytes:
    """A packet from host ``source`` to host ``target``, or to the address ``to``."""
    here, there = TOPOLOGY.hosts[source], TOPOLOGY.hosts[target]
    inner = bytes(IP(src=str(here.ipv4), dst=to or str(there.ipv4), ttl=ttl) / UDP(sport=1, dport=2) / bytes(1000))
    ethernet = Ether(src=here.mac, dst=TOPOLOGY.switch_mac, type=0x0800 if stamp is None else ETHERTYPE_MFS)
    return bytes(ethernet) + (b"" if stamp is None else stamp.pack()) + inner


def level_of(switch: Switch, stamp: Stamp | None) -> int | None:
    """The level that the running program gives to a packet."""
    assert switch.pipeline is not None
    with switch.lock:
        passed = switch.pipeline.ingress(TOPOLOGY.hosts[0].port, packet(stamp), 0)
    return None if passed is None else passed.priority


def pass_through(switch: Switch, stamp: Stamp, now_ns: int = 0) -> None:
    switch.receive(TOPOLOGY.hosts[0].port, packet(stamp), now_ns)
    assert switch.transmit(TOPOLOGY.hosts[1].port, now_ns) is not None


def probes() -> list[Stamp]:
    """First packets of flows of every stage, near and far, loose, tight and late."""
    return [
        Stamp(stage, Flags.FIRST, batch=1, flow=flow, target_layer=layer, slack_us=slack_us, remaining=400)
        for flow, (stage, layer, slack_us) in enumerate(
            (stage, layer, slack_us)
            for stage in (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D)
            for layer in (0, 1, 30)
            for slack_us in (-5, 900, 100_000_000)
        )
    ]


def run_controller(
    address: str,
    device_id: int,
    topology: Topology,
    policy: Policy,
    interval_s: float = 1.0,
    listen: Listen | None = None,
    stop: threading.Event | None = None,
    parameters: SwitchParameters | None = None,
    target: str = P4RUNTIME,
) -> None:
    """Run the controller of one switch, as ``mfs ctrl`` does."""
    spec = SwitchSpec("", address, device_id, topology, parameters or SwitchParameters(), policy, target=target)
    run(Described(lambda: [spec]), Settings(interval_s, listen=listen), must_connect=True, stop=stop)


@contextmanager
def controller_thread(
    address: str, device_id: int, topology: Topology, policy: Policy, interval_s: float = 0.05, **more: Any
) -> Iterator[threading.Thread]:
    """:func:`run_controller` in a thread that has ended at the end, whatever fails meanwhile."""
    stop = threading.Event()
    arguments = (address, device_id, topology, policy, interval_s)
    thread = threading.Thread(target=run_controller, args=arguments, kwargs={"stop": stop, **more})
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def eventually(condition: object, within_s: float = 60.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
