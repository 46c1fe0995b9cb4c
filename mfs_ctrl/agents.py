"""Which host agents ask for the policy, and what follows for ports that have none. Pure; the clock is passed in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from host_agent.protocol.agent_header import AgentIdentity
from topologies.topology import Host

ALIVE_S = 10.0
"""Seconds after which an agent that was not heard is gone; it asks every second by default."""
AGENTS_MAX = 4096
"""Agents that are kept; whoever reaches the policy server may claim to be one."""


class Agents:
    """The agents that were heard. Used by several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Create an empty register; ``clock`` is in seconds."""
        self._clock = clock
        self._heard: dict[str, tuple[AgentIdentity, float, float]] = {}
        """Identity, when it was heard first, and last."""
        self._lock = threading.Lock()

    def heard(self, header: str) -> None:
        """Note a request with this header; anything else than an agent's is ignored."""
        identity = AgentIdentity.from_header(header)
        if identity is None:
            return
        with self._lock:
            now_s = self._clock()
            if identity.mac in self._heard or len(self._heard) < AGENTS_MAX:
                _, first_s, _ = self._heard.get(identity.mac, (identity, now_s, now_s))
                self._heard[identity.mac] = identity, first_s, now_s

    def alive(self, since_s: float = 0.0) -> tuple[AgentIdentity, ...]:
        """Return the agents that were heard lately, and first ``since_s`` seconds ago or before; forget the others."""
        now_s = self._clock()
        with self._lock:
            self._heard = {mac: held for mac, held in self._heard.items() if held[2] >= now_s - ALIVE_S}
            return tuple(identity for identity, first_s, _ in self._heard.values() if first_s <= now_s - since_s)


def left_on(hosts: Collection[Host], stripped_ports: Collection[int], agents: Agents) -> str:
    """Return which ports get stamps that nobody takes off, with the way out; empty if there is none.

    Only shims must be taken off, by the receiver's agent or at one of ``stripped_ports`` by the switch. A sender counts
    after :data:`ALIVE_S`, since the agents of a rack do not start at once.
    """
    senders = [agent for agent in agents.alive(ALIVE_S) if agent.carrier == "shim"]
    served = {agent.mac.lower() for agent in agents.alive()}
    ports = sorted({host.port for host in hosts if host.mac.hex(":") not in served} - set(stripped_ports))
    if not senders or not ports:
        return ""
    more = f" and {len(senders) - 1} more" if len(senders) > 1 else ""
    return (
        f"nobody takes stamps off at ports {', '.join(map(str, ports))}, where no agent is heard, while "
        f"{senders[0].mac} ({senders[0].interface}){more} sends them in shims, which a kernel drops: run agents there, "
        "or list the ports in stamp_unaware_ports"
    )
