"""Clone, resubmit, recirculate, multicast and truncate: requests that are met at the end of ingress or of egress.

As in bmv2 a request is a note in a variable; of several of one kind the last one counts. Metadata of a copy reads
zero, but for the fields of the request's field list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from soft_switch.codegen.context import Context, all_primitives
from soft_switch.codegen.ir import Assign, Effect, If, Names, Return, Stmt
from soft_switch.model.program import Const, FieldRef

CLONE, CLONE_LIST = "clone_session", "clone_list"
RESUBMIT, RECIRCULATE = "resubmit_list", "recirculate_list"
TRUNCATE = "truncate_to"
"""One more than the bytes that are left of the packet; 0 for all of them."""
PACKET_LENGTH = "packet_length_now"
"""Variable with the length that the packet has after headers came and went, as bmv2 keeps it."""
ROUNDS = "rounds"
"""How often the packet has come in again."""
_KEPT = "kept"
_CUT, _CUT_LENGTH = "cut_data", "cut_length"
_SESSION_BITS = 0x7FFF
_SESSION_SET = 0x8000
NORMAL, INGRESS_CLONE, EGRESS_CLONE, RECIRCULATED, REPLICATED, RESUBMITTED = 0, 1, 2, 4, 5, 6
"""Values of instance_type, those of simple_switch."""


def session_note(text: str) -> str:
    """What the variable of a clone request holds, also for session 0."""
    return f"{text} & {_SESSION_BITS:#x} | {_SESSION_SET:#x}"


def _wishes(context: Context) -> Iterable[str]:
    group = context.program.intrinsic("mcast_grp")
    for primitive in all_primitives(context.program):
        if primitive.op == "assign" and group is not None and primitive.args[0] == group:
            value = primitive.args[1]
            if not (isinstance(value, Const) and value.value == 0):
                yield "multicast"
        yield primitive.op


@dataclass(slots=True)
class Copies:
    """What a program asks for, and the code that does it."""

    context: Context
    wishes: frozenset[str] = frozenset()
    preserved: tuple[FieldRef, ...] = field(default=())

    def __post_init__(self) -> None:
        program = self.context.program
        self.wishes = frozenset(_wishes(self.context)) & {
            "clone_ingress_pkt_to_egress",
            "clone_egress_pkt_to_egress",
            "resubmit",
            "recirculate",
            "truncate",
            "multicast",
        }
        fields = {ref for refs in program.field_lists.values() for ref in refs}
        self.preserved = tuple(sorted(fields, key=lambda ref: (ref.header, ref.name)))

    @property
    def any(self) -> bool:
        """Whether the program makes copies at all."""
        return bool(self.wishes - {"truncate"})

    @property
    def clones(self) -> bool:
        """Whether it clones."""
        return any(wish.startswith("clone") for wish in self.wishes)

    @property
    def returns(self) -> bool:
        """Whether packets come in again."""
        return bool(self.wishes & {"resubmit", "recirculate"})

    def start(self) -> list[Stmt]:
        """Nothing is asked for yet."""
        names = [CLONE, CLONE_LIST, RESUBMIT, RECIRCULATE]
        return [Assign(name, "0") for name in names] if self.any else []

    def take_along(self) -> list[Stmt]:
        """In ingress: what a packet that comes in again has taken along, out of ``again``."""
        names = [self._instance_type(), ROUNDS, *(self.context.name(ref) for ref in self.preserved)]
        return [Effect((f"{', '.join(names)} = again",), frozenset(("again",)), frozenset(names))]

    def _instance_type(self) -> str:
        ref = self.context.program.intrinsic("instance_type")
        return "instance_type_now" if ref is None else self.context.name(ref)

    def _keep(self, variable: str) -> list[Stmt]:
        """The fields of the list whose number is in ``variable``, zero for the others."""
        branches: list[tuple[str, Names, list[Stmt]]] = []
        for number, fields in sorted(self.context.program.field_lists.items()):
            names = [self.context.name(ref) if ref in fields else "0" for ref in self.preserved]
            reads = frozenset(name for name in names if name != "0")
            text = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
            branches.append((f"{variable} == {number}", frozenset((variable,)), [Assign(_KEPT, text, reads)]))
        nothing: list[Stmt] = [Assign(_KEPT, str((0,) * len(self.preserved)))]
        return [If(branches, nothing)] if branches and self.preserved else nothing

    def _of_metadata(self) -> set[str]:
        program = self.context.program
        refs = (FieldRef(h.name, f.name) for h in program.headers.values() if h.is_metadata for f in h.fields)
        return {self.context.name(ref) for ref in refs}

    def _copied(self, carried: Sequence[str], kind: int, instead: Mapping[str, str] | None = None) -> tuple[str, Names]:
        """A copy's state: headers as they are, metadata zero but for what is kept; ``instead`` gives other names."""
        metadata = self._of_metadata()
        positions = {self.context.name(ref): i for i, ref in enumerate(self.preserved)}
        parts, reads = [], {_KEPT}
        for name in carried:
            if name == self._instance_type():
                parts.append(str(kind))
            elif name in positions:
                parts.append(f"{_KEPT}[{positions[name]}]")
            elif name in metadata or name in (TRUNCATE, ROUNDS):
                parts.append("0")
            else:
                parts.append((instead or {}).get(name, name))
                reads.add(parts[-1])
        return state_text(parts), frozenset(reads)

    def _priority(self) -> str:
        ref = self.context.program.intrinsic("priority")
        return f"{_KEPT}[{self.preserved.index(ref)}]" if ref in self.preserved else "0"

    def at_ingress_end(self, carried: Sequence[str]) -> tuple[list[Stmt], list[Stmt]]:
        """(what precedes digests: clones; what follows them: resubmission and multicast, either of which ends)."""
        clone: list[Stmt] = []
        rest: list[Stmt] = []
        if self.clones:
            session, parsed = f"{CLONE} & {_SESSION_BITS:#x}", f"parse_again(port, {_CUT}, now_ns, {_KEPT})"
            lines = (
                f"{_CUT} = {self._extern('cut')}({session}, data)",
                f"{self._extern('clone')}({session}, {self._priority()}, len({_CUT}), {parsed})",
            )
            effect = Effect(lines, frozenset((CLONE, _KEPT, "port", "data", "now_ns")), frozenset((_CUT,)))
            clone = self._asked(CLONE, [*self._keep(CLONE_LIST), effect])
        if "resubmit" in self.wishes:
            rest += self._asked(
                RESUBMIT, [*self._keep(RESUBMIT), *self._again(RESUBMITTED, "port", "data"), Return("None")]
            )
        if "multicast" in self.wishes:
            group = self.context.program.intrinsic("mcast_grp")
            priority = self.context.program.intrinsic("priority")
            assert group is not None
            name, level = self.context.name(group), self.context.name(priority) if priority else "0"
            state = self.normal_state(carried, REPLICATED)
            call = f"{self._extern('multicast')}({name}, {level}, n, {state[0]})"
            effect = Effect((call,), (state[1] | {name, level, "n"}) - {"0"})
            rest += self._asked(name, [effect, Return("None")])
        return clone, rest

    def normal_state(self, carried: Sequence[str], kind: int = NORMAL) -> tuple[str, Names]:
        """The state of a packet that goes on to egress."""
        own = self._instance_type() if self.any else None
        parts = [str(kind) if name == own else name for name in carried]
        return state_text(parts), frozenset(name for name in carried if name != own)

    def parsed_state(self, carried: Sequence[str]) -> tuple[str, Names]:
        """The state of an ingress clone, right after it was parsed again."""
        return self._copied(carried, INGRESS_CLONE)

    def after_egress(self, carried: Sequence[str]) -> list[Stmt]:
        """Clones of what egress has made."""
        if not self.clones:
            return []
        session, shorter = f"{CLONE} & {_SESSION_BITS:#x}", {"data": _CUT, PACKET_LENGTH: _CUT_LENGTH}
        state, reads = self._copied(carried, EGRESS_CLONE, shorter)
        lines = (
            f"{_CUT}, {_CUT_LENGTH} = {self._extern('cut_end')}({session}, data, off, {PACKET_LENGTH})",
            f"{self._extern('clone')}({session}, {self._priority()}, {_CUT_LENGTH}, {state})",
        )
        names = frozenset((_CUT, _CUT_LENGTH))
        effect = Effect(lines, (reads - names) | {CLONE, "data", "off", PACKET_LENGTH}, names)
        return self._asked(CLONE, [*self._keep(CLONE_LIST), effect])

    def after_deparser(self, out: str) -> list[Stmt]:
        """Recirculation of the packet in the variable ``out``, instead of sending it."""
        if "recirculate" not in self.wishes:
            return []
        body = [*self._keep(RECIRCULATE), *self._again(RECIRCULATED, "0", out), Return("None")]
        return self._asked(RECIRCULATE, body)

    def _again(self, kind: int, port: str, data: str) -> list[Stmt]:
        text = f"{self._extern('again')}({port}, {data}, ({kind}, {ROUNDS} + 1, *{_KEPT}))"
        return [Effect((text,), frozenset((port, data, ROUNDS, _KEPT)) - {"0"})]

    def _asked(self, variable: str, body: list[Stmt]) -> list[Stmt]:
        return [If([(variable, frozenset((variable,)), body)])]

    def _extern(self, name: str) -> str:
        return self.context.share(f"spawn_{name}", self.context.externs[name])


def state_text(parts: Sequence[str]) -> str:
    """A tuple, as Python."""
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def stable(compute: Callable[[list[str]], Names]) -> list[str]:
    """The names that are carried from ingress to egress, where what egress reads may depend on what is carried."""
    carried: list[str] = []
    while (found := sorted(compute(carried))) != carried:
        carried = sorted({*carried, *found})
    return carried
