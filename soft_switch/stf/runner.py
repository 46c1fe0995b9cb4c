"""Runs a script on the embedded switch, on a virtual clock: each packet leaves before the next one arrives.

Names are resolved as in p4c's runner: tables, actions and key fields may be shortened to the end of their names,
``valid`` is a header's validity, and key fields that are not named match everything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence

from soft_switch.model.externs import MeterConfig
from soft_switch.model.program import KeyField, TableDef
from soft_switch.model.replication import CloneSession, Replica
from soft_switch.pipeline import Pipeline
from soft_switch.queues.traffic_manager import QUEUES, QueueConfig
from soft_switch.stf.script import (
    Add,
    Call,
    CheckCounter,
    Command,
    Expect,
    Packet,
    RemoveAll,
    ScriptError,
    SetDefault,
    Statement,
    parse_number,
)
from soft_switch.switch import Switch
from soft_switch.tables.matches import ActionCall, Exact, Lpm, Match, Range, Ternary
from soft_switch.tables.table import Table

RATE_BPS = 10_000_000_000
PAUSE_NS = 1_000_000
"""Time between packets, so that no queue holds two of them unless the program made both."""
QUEUE_BYTES = 1 << 24
_RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_DIGIT_BITS = {"0x": 4, "0b": 1, "0o": 3}


def run_script(pipeline: Pipeline, statements: Iterable[tuple[int, Statement]]) -> str | None:
    """Return what is wrong with the first statement that does not hold; None if all hold.

    Raises:
        ScriptError: the script does not fit the program.
        SwitchError: an entry does not fit, or an assertion of the program does not hold.
    """
    statements = list(statements)
    run = _Run(pipeline, {s.port for _, s in statements if isinstance(s, Packet | Expect)})
    for number, statement in statements:
        try:
            problem = run.execute(statement)
        except ScriptError as error:
            raise ScriptError(f"line {number}: {error}") from error
        if problem is not None:
            return f"line {number}: {problem}"
    return run.check()


class _Run:
    def __init__(self, pipeline: Pipeline, ports: set[int]) -> None:
        self._pipeline = pipeline
        self._switch = Switch()
        self._switch.install(pipeline)
        # Every port exists, since egress may recirculate or clone packets sent to a port that the script does not name.
        for port in range(self._pipeline.drop_port):
            self._switch.add_port(port, RATE_BPS, (QueueConfig(0, QUEUE_BYTES),) * QUEUES)
        self._backlog: set[int] = set()
        self._switch.on_backlog = self._backlog.add
        self._sent: dict[int, list[bytes]] = {port: [] for port in ports}
        self._expected: dict[int, list[Expect]] = {port: [] for port in ports}
        self._now_ns = PAUSE_NS
        self._definitions = {
            node.name: node
            for control in (pipeline.program.ingress, pipeline.program.egress)
            for node in control.nodes.values()
            if isinstance(node, TableDef)
        }
        self._nodes: list[tuple[int, tuple[int, ...]]] = []

    def execute(self, statement: Statement) -> str | None:
        """Carry out a statement; return what is wrong, if anything is."""
        if isinstance(statement, Packet):
            self._packet(statement)
        elif isinstance(statement, Expect):
            self._expected[statement.port].append(statement)
        elif isinstance(statement, Add):
            table = self._table(statement.table)
            match = _match_of(statement.key, self._definitions[table.name].keys)
            table.insert(match, statement.priority or 0, self._call(table, statement.call))
        elif isinstance(statement, SetDefault):
            table = self._table(statement.table)
            table.set_default(self._call(table, statement.call))
        elif isinstance(statement, RemoveAll):
            for table in self._pipeline.tables.values():
                for entry in table.entries():
                    if not entry.is_const:
                        table.delete(entry.match, entry.priority)
        elif isinstance(statement, CheckCounter):
            return self._check_counter(statement)
        else:
            self._command(statement)
        return None

    def check(self) -> str | None:
        """Return what differs, port by port, between the packets that left and those expected; None if nothing does."""
        for port, expected in self._expected.items():
            sent = self._sent[port]
            if len(sent) != len(expected):
                return f"port {port}: {len(sent)} packets instead of {len(expected)}"
            for number, (expect, data) in enumerate(zip(expected, sent, strict=True), start=1):
                problem = expect.mismatch(data)
                if problem is not None:
                    return f"port {port}: packet {number} {problem}"
        return None

    def _packet(self, packet: Packet) -> None:
        switch = self._switch
        switch.receive(packet.port, packet.data, self._now_ns)
        while self._backlog:
            port = self._backlog.pop()
            while (frame := switch.transmit(port, self._now_ns)) is not None:
                self._sent.setdefault(port, []).append(frame[0])
                self._now_ns += frame[1]
        self._now_ns += PAUSE_NS

    def _table(self, name: str) -> Table:
        return self._pipeline.tables[_resolve(name, self._pipeline.tables, "table")]

    def _call(self, table: Table, call: Call) -> ActionCall:
        name = _resolve(call.action, table.actions, f"action of {table.name}")
        params = self._pipeline.program.actions[table.actions[name][0]].params
        names = [param for param, _ in params]
        if set(names) != set(call.args):
            raise ScriptError(f"action {name} takes {names}, not {list(call.args)}")
        return ActionCall(name, tuple(call.args[param] for param in names))

    def _check_counter(self, check: CheckCounter) -> str | None:
        counter = self._pipeline.counters[_resolve(check.name, self._pipeline.counters, "counter")]
        if not 0 <= check.index < counter.size:
            raise ScriptError(f"counter {counter.name} has no index {check.index}")
        if check.relation is None:
            return None
        value = (counter.bytes if check.unit == "bytes" else counter.packets)[check.index]
        if _RELATIONS[check.relation](value, check.number):
            return None
        return f"{counter.name}({check.index}) has {value} {check.unit}, not {check.relation} {check.number}"

    def _command(self, command: Command) -> None:
        pipeline, word, args = self._pipeline, command.word, command.args
        kind, _, verb = word.partition("_")
        if kind == "counter":
            counter = pipeline.counters[_resolve(args[0], pipeline.counters, "counter")]
            index = _within(args[1], counter.size)
            if verb == "write":
                counter.packets[index], counter.bytes[index] = (parse_number(a) for a in args[2:4])
        elif kind == "register":
            register = pipeline.registers[_resolve(args[0], pipeline.registers, "register")]
            if verb == "reset":
                register.set_all([0] * register.size)
            elif verb == "write":
                register.values[_within(args[1], register.size)] = parse_number(args[2]) % (1 << register.width)
            else:
                _within(args[1], register.size)
        elif kind == "meter":
            meter = pipeline.meters[_resolve(args[0], pipeline.meters, "meter")]
            if verb == "set_rates":
                meter.configs[_within(args[1], meter.size)] = _rates(args[2:])
            elif verb == "array_set_rates":
                meter.configs[:] = [_rates(args[1:])] * meter.size
            else:
                _within(args[1], meter.size)
        elif kind == "mirroring":
            self._mirroring(verb, [parse_number(arg) for arg in args])
        else:
            self._multicast(verb.partition("_")[0], verb.rpartition("_")[2], [parse_number(arg) for arg in args])

    def _mirroring(self, verb: str, args: Sequence[int]) -> None:
        sessions = self._pipeline.replication.sessions
        if verb == "add":
            sessions[args[0]] = CloneSession((Replica(args[1]),))
        elif verb == "add_mc":
            sessions[args[0]] = CloneSession(group=args[1])
        elif verb == "delete":
            sessions.pop(args[0], None)
        elif args[0] not in sessions:
            raise ScriptError(f"there is no mirroring session {args[0]}")

    def _multicast(self, thing: str, verb: str, args: Sequence[int]) -> None:
        """Carry out a multicast command. Groups have nodes, counted from 0, each with a replication id and ports."""
        groups = self._pipeline.replication.groups
        if thing == "mgrp":
            groups[args[0]] = ()
        elif verb == "create":
            self._nodes.append((args[0], tuple(args[1:])))
        elif verb == "associate":
            rid, ports = self._nodes[args[1]]
            groups[args[0]] = (*groups[args[0]], *(Replica(port, rid) for port in ports))
        else:
            raise ScriptError("mc_node_update is not supported")


def _resolve(name: str, known: Mapping[str, object], kind: str) -> str:
    if name in known:
        return name
    candidates = [candidate for candidate in known if candidate.endswith(name)]
    if len(candidates) != 1:
        problem = "is ambiguous: " + ", ".join(candidates) if candidates else "does not exist"
        raise ScriptError(f"{kind} {name!r} {problem}")
    return candidates[0]


def _within(text: str, size: int) -> int:
    index = parse_number(text)
    if not 0 <= index < size:
        raise ScriptError(f"index {index} is not below {size}")
    return index


def _rates(args: Sequence[str]) -> MeterConfig:
    """Read ``rate:burst`` for the committed and the peak bucket; rates are in units per microsecond."""
    pairs = [arg.split(":") for arg in args]
    if len(pairs) != 2 or any(len(pair) != 2 for pair in pairs):
        raise ScriptError("a meter takes two pairs rate:burst")
    (cir, cburst), (pir, pburst) = ((round(float(rate) * 1e6), int(burst)) for rate, burst in pairs)
    return MeterConfig(cir, cburst, pir, pburst)


def _match_of(given: tuple[tuple[str, str], ...], keys: tuple[KeyField, ...]) -> tuple[Match, ...]:
    parts: dict[int, Match] = {}
    for name, text in given:
        index = _key_index(name, keys)
        parts[index] = _part(text, keys[index])
    return tuple(parts.get(i, _anything(key)) for i, key in enumerate(keys))


def _key_index(name: str, keys: tuple[KeyField, ...]) -> int:
    # Scripts may write a$1 for a[1], since brackets were not allowed in them at first.
    head, dollar, tail = name.partition("$")
    if dollar and tail[:1].isdigit():
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        name = f"{head}[{digits}]{tail[len(digits) :]}"
    candidates = [name, f"{name}$", f"{name}.$valid$"]
    if name.endswith(".valid"):
        candidates.append(f"{name[:-5]}$valid$")
    if name == "valid":
        candidates.append("$valid$")
    names = [key.name for key in keys]
    for candidate in candidates:
        if candidate in names:
            return names.index(candidate)
    for candidate in candidates:
        for index, full_name in enumerate(names):
            if full_name.endswith(f".{candidate}"):
                return index
    raise ScriptError(f"no key field {name!r}, only {', '.join(names)}")


def _anything(key: KeyField) -> Match:
    if key.kind == "lpm":
        return Lpm(0, 0)
    if key.kind == "ternary":
        return Ternary(0, 0)
    if key.kind == "range":
        return Range(0, (1 << key.width) - 1)
    return Exact(0)


def _part(text: str, key: KeyField) -> Match:
    """Read a match: digits ``*`` match everything; as in p4c's runner, the mask covers only the digits written."""
    if key.kind == "range":
        low, dots, high = text.partition("..")
        return Range(parse_number(low), parse_number(high if dots else low))
    if key.kind == "lpm" and "/" in text:
        prefix, _, length = text.partition("/")
        return Lpm(parse_number(prefix), parse_number(length))
    base, digits = text[:2].lower(), text[2:]
    if key.kind == "exact" or base not in _DIGIT_BITS:
        value = parse_number(text)
        if key.kind == "exact":
            return Exact(value)
        return Lpm(value, key.width) if key.kind == "lpm" else Ternary(value, (1 << key.width) - 1)
    bits = _DIGIT_BITS[base]
    value, mask = parse_number(base + digits.replace("*", "0")), 0
    for digit in digits:
        mask = mask << bits | (0 if digit == "*" else (1 << bits) - 1)
    if key.kind == "lpm":
        return Lpm(value, min(bits * (len(digits) - digits.count("*")), key.width))
    ones = (1 << key.width) - 1
    return Ternary(value & ones, mask & ones)
