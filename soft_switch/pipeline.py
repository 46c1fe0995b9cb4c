"""A loaded P4 program: what the control plane may set, and the two functions that packets go through.

The JSON of p4c's bmv2 backend (v1model) is compiled to Python source once (:mod:`soft_switch.codegen`). Every packet
runs through that source, or through machine code made from it where there is a C compiler (:mod:`soft_switch.native`);
both behave the same. Behaviour follows bmv2's simple_switch wherever that is deterministic. Where it is not (fields
that were never set, fields of invalid headers) everything reads as zero.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, Final

from soft_switch.backend import Backend
from soft_switch.codegen.functions import generate
from soft_switch.errors import ArtifactError, ProgramAssertionError, TableError
from soft_switch.ir.program import Generated
from soft_switch.model.artifact import read_program
from soft_switch.model.externs import CounterArray, DirectMeter, MeterArray, RegisterArray
from soft_switch.model.program import ConstEntry, Program, TableDef
from soft_switch.model.replication import Ingressed, Reentry, Replication
from soft_switch.native.choice import machine_code
from soft_switch.ports import DROP_PORT
from soft_switch.tables.action_profile import ActionProfile
from soft_switch.tables.matches import ActionCall, Exact, Lpm, Match, Range, Ternary
from soft_switch.tables.table import NO_ACTION, Table
from soft_switch.tables.value_sets import ValueSet

_LOG = logging.getLogger("soft_switch.model.program")

DigestSink = Callable[[str, tuple[int, ...]], None]
IngressFunction = Callable[[int, bytes, int], Ingressed | None]
EgressFunction = Callable[[Ingressed, int, int, int, int], bytes | None]


class Pipeline:
    """A P4 program, ready to run; :meth:`load` makes one. Not thread-safe.

    Attributes:
        tables: every table by its full name, including those that the compiler made for single statements (they have
            no key and a fixed default action).
        action_profiles: action profiles and selectors by name.
        counters: indirect counters by name; direct counters are in the entries of their table.
        meters: indirect meters by name; direct meters are in the entries of their table.
        registers: registers by name.
        actions: the parameters of every action by its name, each (name, width in bits).
        digests: the number of values in each digest that the program may send, by name.
        direct_counters: the name of each direct counter's table, by the counter's name.
        direct_meters: (name of its table, "packets" or "bytes") of each direct meter, by name.
        ingress: ``ingress(port, data, now_ns)`` runs parser, checksum verification and ingress for the bytes of a
            packet that arrived at a port at a time in nanoseconds; None if the program drops it.
        egress: ``egress(packet, enqueued_ns, dequeued_ns, enq_qdepth, deq_qdepth)`` runs egress, checksum update and
            deparser. It returns the bytes to send, or None if the program drops the packet. Depths are in packets.
        value_sets: parser value sets by name.
        replication: clone sessions and multicast groups.
        spawned: what ``ingress`` and ``egress`` made besides the packet that they returned: copies to be queued, and
            packets to go through ingress again (:meth:`reenter`). The caller of the two removes them.
        on_digest: called with name and values of every digest that the program sends, if set.
        source: the generated Python.
        machine_code: the machine code, if that is what runs.
        why_python: why Python runs; empty if machine code does.
    """

    drop_port: Final = DROP_PORT

    def __init__(self, program: Program, backend: Backend = "auto") -> None:
        self.program = program
        self.on_digest: DigestSink | None = None
        self.actions = {a.name: a.params for a in program.actions.values()}
        self.digests = {d.name: len(d.inputs) for d in program.digests.values()}
        self.counters = {c.name: CounterArray(c.name, c.size) for c in program.counters.values() if c.table is None}
        self.direct_counters = {c.name: c.table for c in program.counters.values() if c.table is not None}
        self.meters = {m.name: MeterArray(m.name, m.size, m.unit) for m in program.meters.values() if m.table is None}
        self.direct_meters = {m.name: (m.table, m.unit) for m in program.meters.values() if m.table is not None}
        self.registers = {r.name: RegisterArray(r.name, r.size, r.width) for r in program.registers.values()}
        self.action_profiles: dict[str, ActionProfile] = {}
        self.tables: dict[str, Table] = {}
        for control in (program.ingress, program.egress):
            for profile in control.profiles.values():
                made = ActionProfile(profile.name, profile.size, profile.algorithm is not None)
                self.action_profiles[profile.name] = made
            for node in control.nodes.values():
                if isinstance(node, TableDef):
                    self.tables[node.name] = self._table(node)
        self.value_sets = {v.name: ValueSet(v.name, v.size, v.widths) for v in program.value_sets.values()}
        self.replication = Replication()
        self.spawned = self.replication.spawned
        externs = self._externs()
        generated = generate(program, externs)
        self.source = generated.source
        self.machine_code, self.why_python = machine_code(backend, generated, externs, self.replication)
        if self.machine_code is not None:
            self.ingress: IngressFunction = self.machine_code.ingress
            self.egress: EgressFunction = self.machine_code.egress
            self._enter: Callable[..., Ingressed | None] = self.machine_code.ingress
        else:
            self._run_as_python(generated)

    def _run_as_python(self, generated: Generated) -> None:
        self.replication.rid_at = generated.rid_at
        self.replication.priority_at = generated.priority_at
        space: dict[str, Any] = dict(generated.objects)
        try:
            exec(compile(generated.source, "<generated pipeline>", "exec"), space)
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ArtifactError(f"the program is nested too deeply to be compiled: {error}") from error
        self.ingress = self._enter = space["ingress"]
        self.egress = space["egress"]

    @classmethod
    def load(cls, json_text: str | bytes, backend: Backend = "auto") -> Pipeline:
        """Load the program in p4c's JSON output.

        Raises:
            NativeError: ``backend`` is ``c``, and machine code is not possible; the message says why.
            ArtifactError: the text is not such a program, is truncated or inconsistent; the message says where.
            UnsupportedConstructError: the program uses a construct that this switch does not run.
        """
        program = read_program(json_text)
        try:
            return cls(program, backend)
        except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            # Each part alone was well formed, so what remains is a reference to something that does not exist.
            reason = f"{type(error).__name__}: {error}"
            raise ArtifactError(f"the parts of the program do not fit together ({reason})") from error

    @property
    def runs_as(self) -> str:
        """How the program runs, as text for people."""
        return "machine code" if self.machine_code is not None else f"Python ({self.why_python})"

    def reenter(self, packet: Reentry, now_ns: int) -> Ingressed | None:
        """Run ingress for a packet that was resubmitted or recirculated."""
        return self._enter(packet.port, packet.data, now_ns, packet.again)

    def _table(self, definition: TableDef) -> Table:
        actions = self.program.actions
        default = NO_ACTION
        if definition.default is not None:
            default = ActionCall(actions[definition.default[0]].name, definition.default[1])
        table = Table(
            definition.name,
            definition.size,
            tuple(key.kind for key in definition.keys),
            tuple(key.width for key in definition.keys),
            {actions[i].name: (i, tuple(width for _, width in actions[i].params)) for i in definition.action_ids},
            has_counter=definition.has_counter,
            key_names=tuple(key.name for key in definition.keys),
            ages=definition.ages,
            meter_name=definition.meter,
            profile=self.action_profiles[definition.profile] if definition.profile else None,
            default=default,
            default_is_const=definition.default_is_const,
        )
        if definition.entries is not None:
            try:
                table.set_const_entries(self._const_entries(definition, definition.entries))
            except (TableError, ValueError) as error:
                raise ArtifactError(f"const entries of table {definition.name}: {error}") from error
        return table

    def _const_entries(
        self, definition: TableDef, entries: tuple[ConstEntry, ...]
    ) -> list[tuple[tuple[Match, ...], int, ActionCall]]:
        """Return the entries with priorities of which the largest wins; in the JSON the smallest does."""
        highest = max((entry.priority for entry in entries), default=0)
        ranked = any(key.kind in ("ternary", "range") for key in definition.keys)
        result = []
        for entry in entries:
            match = tuple(_match(k.kind, part) for k, part in zip(definition.keys, entry.match, strict=True))
            call = ActionCall(self.program.actions[entry.action_id].name, entry.args)
            result.append((match, highest + 1 - entry.priority if ranked else 0, call))
        return result

    def _externs(self) -> dict[str, Any]:
        # A fixed seed: the same packets have the same fate in every run.
        randomness = random.Random(0)
        externs: dict[str, Any] = {
            "randint": randomness.randint,
            "log": _log_message,
            "fail": _fail,
            "digest": self._send_digest,
            "clone": self.replication.clone,
            "cut": self.replication.cut,
            "cut_end": self.replication.cut_end,
            "multicast": self.replication.multicast,
            "again": self.replication.again,
            "new": tuple.__new__,
            "kind": Ingressed,
        }
        for kind, things in (
            ("table", self.tables),
            ("counter", self.counters),
            ("meter", self.meters),
            ("register", self.registers),
            ("value_set", self.value_sets),
        ):
            externs.update({f"{kind}:{name}": thing for name, thing in things.items()})
        for name, (_, unit) in self.direct_meters.items():
            externs[f"direct_meter:{name}"] = DirectMeter(name, unit)
        return externs

    def _send_digest(self, name: str, values: tuple[int, ...]) -> None:
        if self.on_digest is not None:
            self.on_digest(name, values)


def _match(kind: str, numbers: tuple[int, ...]) -> Match:
    if kind == "exact":
        return Exact(numbers[0])
    if len(numbers) != 2:
        raise ValueError(f"{len(numbers)} numbers for a {kind} match")
    if kind == "lpm":
        return Lpm(*numbers)
    return Ternary(*numbers) if kind == "ternary" else Range(*numbers)


def _log_message(text: str, *values: int) -> None:
    for value in values:
        text = text.replace("{}", str(value), 1)
    _LOG.info("%s", text)


def _fail(word: str, place: str) -> None:
    raise ProgramAssertionError(f"{word} does not hold (at {place})")
