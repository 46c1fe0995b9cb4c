"""The flows of one host, in the maps that the programs read."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from host_agent.ebpf.bpf import Map
from host_agent.ebpf.errors import RequestError
from host_agent.ebpf.layout import (
    BANKS,
    FLOWS_MAX,
    IDENTITY,
    INDEX,
    NO_STATE,
    Config,
    Counters,
    FlowState,
    Tuple,
    decode_config,
    decode_counters,
    decode_flow,
    decode_state,
    encode_config,
    encode_flow,
    encode_policy,
)
from host_agent.protocol.flow_spec import FLOW_NUMBERS, LAYER_MAX
from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage

CGROUPS = Path("/sys/fs/cgroup")
PLACES = ("cookies", "tuples", "cgroups")
"""The maps from what a packet is known by to its flow."""
BATCH_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Match:
    """Which packets are a flow's: exactly one of the three.

    Attributes:
        cookie: of a socket, from ``getsockopt(SOL_SOCKET, SO_COOKIE)``.
        cgroup: id of a cgroup of version 2: all that its processes send and no socket or tuple claims.
        addresses: addresses and ports.
    """

    cookie: int | None = None
    cgroup: int | None = None
    addresses: Tuple | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.cookie, self.cgroup, self.addresses)) != 1:
            raise RequestError("a match is a cookie, a cgroup or addresses with ports: exactly one of them")

    def place(self) -> tuple[str, bytes]:
        """The map that it belongs in, and the key there.

        Raises:
            RequestError: no such cookie, cgroup or tuple can be.
        """
        if self.addresses is not None:
            return "tuples", self.addresses.encode()
        name, identity = ("cookies", self.cookie) if self.cookie is not None else ("cgroups", self.cgroup)
        if not isinstance(identity, int) or not 0 < identity < 1 << 64:
            raise RequestError(f"{name[:-1]} {identity!r} is not a number above 0 of 64 bits")
        return name, IDENTITY.pack(identity)

    @classmethod
    def of_place(cls, name: str, key: bytes) -> Match:
        """The match whose :meth:`place` is this."""
        if name == "tuples":
            return cls(addresses=Tuple.decode(key))
        (identity,) = IDENTITY.unpack(key)
        return cls(cookie=identity) if name == "cookies" else cls(cgroup=identity)

    def __str__(self) -> str:
        if (to := self.addresses) is not None:
            return f"{to.protocol} {to.source}:{to.source_port} > {to.destination}:{to.destination_port}"
        return f"cookie {self.cookie}" if self.cookie is not None else f"cgroup {self.cgroup}"


def cgroup_id(path: str) -> int:
    """The id of the cgroup at ``path``, absolute or below the cgroup file system.

    Raises:
        RequestError: there is none.
    """
    try:
        return os.stat(CGROUPS / path).st_ino
    except OSError as error:
        raise RequestError(f"no cgroup {path!r}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class HostFlow:
    """What a flow is for; as :class:`host_agent.protocol.flow_spec.FlowSpec`, but for packets that others make.

    Attributes:
        deadline_ns: on CLOCK_MONOTONIC (:func:`time.monotonic_ns`).
        message_bytes: messages (layers, for instance) are of this size, and the level may rise where one starts;
            0: the flow is one message.
        number: of the flow within its batch; None takes one.
        pruned: stamped as late.
        kept: stays open when the client that opened it goes.
    """

    match: Match
    batch: int
    stage: Stage
    deadline_ns: int
    total_bytes: int
    target_layer: int = 0
    beyond_bytes: int = 0
    message_bytes: int = 0
    number: int | None = None
    pruned: bool = False
    kept: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.stage, Stage) or self.stage is Stage.NONE:
            raise RequestError(f"stage {self.stage!r} is none of {', '.join(stage.name for stage in Stage if stage)}")
        for name in ("pruned", "kept"):
            if type(getattr(self, name)) is not bool:
                raise RequestError(f"{name} is true or false, not {getattr(self, name)!r}")
        for name, least, most in (
            ("batch", 0, BATCH_MAX),
            ("deadline_ns", 0, (1 << 63) - 1),
            ("total_bytes", 1, 1 << 62),
            ("beyond_bytes", 0, 1 << 62),
            ("message_bytes", 0, 1 << 62),
            ("target_layer", 0, LAYER_MAX),
            ("number", 0, FLOW_NUMBERS - 1),
        ):
            value = getattr(self, name)
            if name == "number" and value is None:
                continue
            if type(value) is not int or not least <= value <= most:
                raise RequestError(f"{name} {value!r} is not a number of {least}..{most}")


@dataclass(frozen=True, slots=True)
class FlowReport:
    """An open flow, and what the kernel knows of it."""

    flow: int
    spec: HostFlow
    state: FlowState
    current_layer: int


class FlowTable:
    """Opens, advances and closes flows, and puts policies into force, by writing maps."""

    def __init__(self, maps: dict[str, Map], config: Config) -> None:
        """Write ``config``, whose policy is in force."""
        self._maps = maps
        self._flows: dict[int, HostFlow] = {}
        self._by_place: dict[tuple[str, bytes], int] = {}
        # The slot that was free longest goes first, so that a packet under way does not meet another flow's.
        self._free = deque(range(FLOWS_MAX))
        self._next_number = int.from_bytes(os.urandom(2), "little")
        self._config = config
        maps["configs"].put(INDEX.pack(0), encode_config(config))

    @classmethod
    def of_maps(cls, maps: dict[str, Map]) -> FlowTable:
        """The flows that another process left in ``maps``, which go on as they are."""
        table = cls(maps, decode_config(maps["configs"].get(INDEX.pack(0)) or encode_config(Config(0, 0, 0, False))))
        for name in PLACES:
            for key in list(maps[name].keys()):
                value = maps[name].get(key)
                if value is not None:
                    table._adopt(name, key, int(INDEX.unpack(value)[0]))
        return table

    def _adopt(self, name: str, key: bytes, slot: int) -> None:
        fields = decode_flow(self._maps["flows"].get(INDEX.pack(slot)) or b"")
        self._flows[slot] = HostFlow(
            Match.of_place(name, key),
            fields.batch,
            Stage(fields.stage),
            fields.deadline_ns,
            fields.own_bytes,
            fields.target_layer,
            fields.beyond_bytes,
            fields.message_bytes,
            fields.number,
            bool(fields.pruned),
            bool(fields.kept),
        )
        self._by_place[name, key] = slot
        self._free.remove(slot)

    def set_policy(self, rules: Sequence[LevelRule], bias: int) -> None:
        """Rank by ``rules`` from the next packet on: they are written beside those in force, then one write switches.

        Raises:
            PolicyError: the kernel cannot hold them.
        """
        config = self._config._replace(bank=(self._config.bank + 1) % BANKS)
        self._maps["policies"].put(INDEX.pack(config.bank), encode_policy(rules, bias))
        self._maps["configs"].put(INDEX.pack(0), encode_config(config))
        self._config = config

    def open(self, spec: HostFlow, resume: bool = False) -> int:
        """Stamp what matches ``spec`` from now on; the flow that had the same match before ends.

        With ``resume``, it does not end but goes on under ``spec`` if it is of the same batch and stage: what it has
        sent counts, and it keeps its level and, unless ``spec`` has one, its number.

        Raises:
            RequestError: it does not fit, or there are too many flows.
        """
        place = spec.match.place()
        if (slot := self._by_place.get(place)) is not None:
            held = self._flows[slot]
            if resume and (held.batch, held.stage) == (spec.batch, spec.stage):
                self._write(slot, spec if spec.number is not None else replace(spec, number=held.number))
                return slot
            self.close(slot)
        if not self._free:
            raise RequestError(f"{FLOWS_MAX} flows are open, which is all there can be")
        if spec.number is None:
            spec = replace(spec, number=self._next_number)
            self._next_number = (self._next_number + 1) % FLOW_NUMBERS
        slot = self._free.popleft()
        key = INDEX.pack(slot)
        self._maps["states"].put(key, NO_STATE)
        self._write(slot, spec)
        self._maps[place[0]].put(place[1], key)
        self._by_place[place] = slot
        return slot

    def change(
        self,
        slot: int,
        deadline_ns: int | None = None,
        beyond_bytes: int | None = None,
        pruned: bool | None = None,
    ) -> None:
        """Give an open flow another deadline or other bytes beyond it, or prune it, or take that back.

        Raises:
            RequestError: no such flow, or no such deadline or bytes.
        """
        spec = self.spec(slot)
        self._write(
            slot,
            replace(
                spec,
                deadline_ns=spec.deadline_ns if deadline_ns is None else deadline_ns,
                beyond_bytes=spec.beyond_bytes if beyond_bytes is None else beyond_bytes,
                pruned=spec.pruned if pruned is None else pruned,
            ),
        )

    def close(self, slot: int) -> None:
        """Stamp the flow's packets no more.

        Raises:
            RequestError: no such flow.
        """
        place = self.spec(slot).match.place()
        self._maps[place[0]].delete(place[1])
        del self._flows[slot], self._by_place[place]
        self._free.append(slot)

    def advance(self, batch: int, layer: int) -> None:
        """``batch`` now computes ``layer``. One that is not above what is known changes nothing.

        Raises:
            RequestError: no such batch or layer.
        """
        whole = type(batch) is int and type(layer) is int
        if not whole or not 0 < batch <= BATCH_MAX or not 0 <= layer <= LAYER_MAX:
            raise RequestError(f"batch {batch} is not in 1..{BATCH_MAX}, or layer {layer} not in 0..{LAYER_MAX}")
        if layer > self.current_layer(batch):
            self._maps["progress"].put(INDEX.pack(batch), INDEX.pack(layer))

    def current_layer(self, batch: int) -> int:
        """The highest layer of ``batch`` that this host has heard of, also from stamps that came in."""
        value = self._maps["progress"].get(INDEX.pack(batch))
        return 0 if value is None else int(INDEX.unpack(value)[0])

    def slots(self) -> list[int]:
        """The open flows."""
        return list(self._flows)

    def report(self) -> list[FlowReport]:
        """All open flows."""
        found = []
        for slot, spec in self._flows.items():
            state = self._maps["states"].get(INDEX.pack(slot)) or NO_STATE
            found.append(FlowReport(slot, spec, decode_state(state), self.current_layer(spec.batch)))
        return found

    def counters(self) -> Counters:
        """What the hooks counted."""
        return decode_counters(self._maps["counted"].get_all(INDEX.pack(0)) or [])

    def spec(self, slot: int) -> HostFlow:
        """What an open flow is for.

        Raises:
            RequestError: no such flow.
        """
        try:
            return self._flows[slot]
        except (KeyError, TypeError):
            raise RequestError(f"no flow {slot!r} is open") from None

    def _write(self, slot: int, spec: HostFlow) -> None:
        value = encode_flow(
            spec.stage,
            spec.batch,
            spec.number or 0,
            spec.target_layer,
            spec.deadline_ns,
            spec.total_bytes,
            spec.beyond_bytes,
            spec.message_bytes,
            spec.pruned,
            spec.kept,
        )
        self._maps["flows"].put(INDEX.pack(slot), value)
        self._flows[slot] = spec


def monotonic_after(us: int) -> int:
    """The deadline that is ``us`` microseconds from now."""
    return time.monotonic_ns() + us * 1000
