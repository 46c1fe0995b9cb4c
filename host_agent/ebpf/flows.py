"""The flows of one host, in the maps that the programs read."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from host_agent.ebpf.bpf import Map
from host_agent.ebpf.layout import (
    BANKS,
    FLOW,
    FLOWS_MAX,
    INDEX,
    NO_STATE,
    Config,
    Counters,
    FlowState,
    decode_config,
    decode_counters,
    decode_flow,
    decode_match,
    decode_state,
    encode_config,
    encode_flow,
    encode_match,
    encode_policy,
)
from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_request import FlowRequest, FlowUpdate, Match, check_progress
from host_agent.protocol.flow_spec import FLOW_NUMBERS
from host_agent.protocol.level import LevelRule

CGROUPS = Path("/sys/fs/cgroup")
MATCH_MAPS = ("cookies", "tuples", "cgroups")
"""Maps from a packet's socket, addresses or cgroup to its flow."""


def cgroup_id(path: str) -> int:
    """Return the id of the cgroup at ``path``, absolute or below the cgroup file system.

    Raises:
        RequestError: there is no such cgroup.
    """
    try:
        return os.stat(CGROUPS / path).st_ino
    except OSError as error:
        raise RequestError(f"no cgroup {path!r}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class FlowReport:
    """An open flow and its state in the kernel.

    Attributes:
        flow: handle of the flow.
        request: the flow as opened and updated.
        state: state in the kernel.
        current_layer: highest known layer of the flow's batch.
    """

    flow: int
    request: FlowRequest
    state: FlowState
    current_layer: int


class FlowTable:
    """Opens, updates, advances and closes flows, and activates policies, by writing maps.

    A flow's handle is its slot in the maps ``flows`` and ``states``.
    """

    def __init__(self, maps: dict[str, Map], config: Config) -> None:
        """Write ``config``, which names the policy in force."""
        self._maps = maps
        self._flows: dict[int, FlowRequest] = {}
        self._by_key: dict[tuple[str, bytes], int] = {}
        # The longest-free slot is reused first, so that a packet in flight does not use another flow's state.
        self._free = deque(range(FLOWS_MAX))
        self._next_number = int.from_bytes(os.urandom(2), "little")
        self._config = config
        self.on_close: Callable[[int], None] = lambda _flow: None
        """Called with the handle of a flow that is about to end."""
        maps["configs"].put(INDEX.pack(0), encode_config(config))

    @property
    def config(self) -> Config:
        """What the programs are told."""
        return self._config

    @property
    def maps(self) -> dict[str, Map]:
        """The maps, by name."""
        return self._maps

    @classmethod
    def of_maps(cls, maps: dict[str, Map]) -> FlowTable:
        """Take over the flows that another process left in ``maps``; they continue unchanged."""
        table = cls(maps, decode_config(maps["configs"].get(INDEX.pack(0)) or encode_config(Config(0, 0, 0, False))))
        for name in MATCH_MAPS:
            for key in list(maps[name].keys()):
                value = maps[name].get(key)
                if value is not None:
                    table._adopt(name, key, int(INDEX.unpack(value)[0]))
        return table

    def _adopt(self, name: str, key: bytes, flow: int) -> None:
        value = self._maps["flows"].get(INDEX.pack(flow)) or b""
        self._flows[flow] = decode_flow(decode_match(name, key), value)
        self._by_key[name, key] = flow
        self._free.remove(flow)

    def set_policy(self, rules: Sequence[LevelRule], bias: int) -> None:
        """Rank by ``rules`` from the next packet on. They are written to the free bank; one write then switches banks.

        Raises:
            PolicyError: the rules do not fit the kernel's maps.
        """
        bank = (self._config.bank + 1) % BANKS
        self._maps["policies"].put(INDEX.pack(bank), encode_policy(rules, bias))
        self._configure(self._config._replace(bank=bank))

    def open(self, request: FlowRequest, resume: bool = False) -> int:
        """Stamp the packets of ``request`` from now on; it replaces an open flow with the same match.

        With ``resume``, an open flow with the same match, batch and stage continues under ``request``: its sent bytes
        and its level remain, and its number too unless ``request`` has one.

        Returns:
            The flow's handle.

        Raises:
            RequestError: too many flows are open.
        """
        name, key = encode_match(request.match)
        if (replaced := self._by_key.get((name, key))) is not None:
            held = self._flows[replaced]
            if resume and (held.batch, held.stage) == (request.batch, request.stage):
                self._write(replaced, request if request.number is not None else replace(request, number=held.number))
                return replaced
            if self._free:
                self.on_close(replaced)
            else:  # no room for both
                self.close(replaced)
                replaced = None
        if not self._free:
            raise RequestError(f"all {FLOWS_MAX} flows are in use; close some")
        if request.number is None:
            request = replace(request, number=self._next_number)
            self._next_number = (self._next_number + 1) % FLOW_NUMBERS
        flow = self._free.popleft()
        index = INDEX.pack(flow)
        self._maps["states"].put(index, NO_STATE)
        self._write(flow, request)
        self._maps[name].put(key, index)
        self._by_key[name, key] = flow
        self._begin_epoch()
        if replaced is not None:
            self._clear(replaced)
        return flow

    def flow_of(self, match: Match) -> int | None:
        """Return the handle of the open flow with this match; None if there is none."""
        return self._by_key.get(encode_match(match))

    def update(self, flow: int, update: FlowUpdate) -> None:
        """Change an open flow.

        Raises:
            RequestError: there is no such flow, or a value is invalid.
        """
        self._write(flow, update.applied_to(self.request(flow)))

    def close(self, flow: int) -> None:
        """End a flow: its packets are no longer stamped.

        Raises:
            RequestError: there is no such flow.
        """
        name, key = encode_match(self.request(flow).match)
        self.on_close(flow)
        self._maps[name].delete(key)
        del self._by_key[name, key]
        self._begin_epoch()
        self._clear(flow)

    def advance(self, batch: int, layer: int) -> None:
        """Note that ``batch`` now computes ``layer``; a layer that is not above the known one changes nothing.

        Raises:
            RequestError: the batch or the layer is invalid.
        """
        check_progress(batch, layer)
        if layer > self.current_layer(batch):
            self._maps["progress"].put(INDEX.pack(batch), INDEX.pack(layer))

    def current_layer(self, batch: int) -> int:
        """Return the highest known layer of ``batch``, including layers learned from received stamps."""
        value = self._maps["progress"].get(INDEX.pack(batch))
        return 0 if value is None else int(INDEX.unpack(value)[0])

    def handles(self) -> list[int]:
        """Return the handles of the open flows."""
        return list(self._flows)

    def report(self) -> list[FlowReport]:
        """Return all open flows with their state."""
        found = []
        for flow, request in self._flows.items():
            found.append(FlowReport(flow, request, self.state(flow), self.current_layer(request.batch)))
        return found

    def state(self, flow: int) -> FlowState:
        """Return the state of a flow in the kernel."""
        return decode_state(self._maps["states"].get(INDEX.pack(flow)) or NO_STATE)

    def counters(self) -> Counters:
        """Return the counters of the hooks."""
        return decode_counters(self._maps["counted"].get_all(INDEX.pack(0)) or [])

    def request(self, flow: int) -> FlowRequest:
        """Return an open flow, as opened and updated.

        Raises:
            RequestError: there is no such flow.
        """
        try:
            return self._flows[flow]
        except (KeyError, TypeError):
            raise RequestError(f"no flow {flow!r} is open") from None

    def _begin_epoch(self) -> None:
        """Make what sockets know of their flows old."""
        self._configure(self._config._replace(epoch=(self._config.epoch + 1) % (1 << 32)))

    def _configure(self, config: Config) -> None:
        self._maps["configs"].put(INDEX.pack(0), encode_config(config))
        self._config = config

    def _clear(self, flow: int) -> None:
        """Free the slot of a flow that no packet finds any more; connections of a cgroup need no room for it."""
        self._maps["flows"].put(INDEX.pack(flow), bytes(FLOW.size))
        del self._flows[flow]
        self._free.append(flow)

    def _write(self, flow: int, request: FlowRequest) -> None:
        self._maps["flows"].put(INDEX.pack(flow), encode_flow(request))
        self._flows[flow] = request


def monotonic_after(us: int) -> int:
    """Return the time ``us`` microseconds from now, on CLOCK_MONOTONIC in nanoseconds."""
    return time.monotonic_ns() + us * 1000
