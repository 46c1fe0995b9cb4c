"""Clone, resubmit, recirculate, multicast and truncate: requests that are carried out at the end of ingress or egress.

As in bmv2, a variable holds the request, so the last request of a kind counts. Metadata of a copy is zero, except for
the fields in the field list of the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from soft_switch.codegen.context import Context, all_primitives
from soft_switch.ir import expressions as ex
from soft_switch.ir import statements as st
from soft_switch.ir import variables as va
from soft_switch.ir.arithmetic import bitwise_or, constant, fit, masked, not_zero
from soft_switch.model.program import Const, FieldRef

_SESSION_BITS = 0x7FFF
_SESSION_SET = 0x8000
NORMAL, INGRESS_CLONE, EGRESS_CLONE, RECIRCULATED, REPLICATED, RESUBMITTED = 0, 1, 2, 4, 5, 6
"""Values of instance_type in simple_switch."""


def session_note(session: ex.Number) -> ex.Number:
    """Return what the variable of a clone request holds; it is not 0 even for session 0."""
    return bitwise_or(masked(session, _SESSION_BITS), constant(_SESSION_SET))


def note(variable: ex.Var, number: ex.Number) -> st.Assign:
    """Store a number that the program passes to a request."""
    return st.Assign(variable.name, fit(number, va.COUNTS[1].bit_length(), False))


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
    """The requests that a program makes, and the code that carries them out."""

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
        """Whether packets may re-enter."""
        return bool(self.wishes & {"resubmit", "recirculate"})

    @property
    def limit(self) -> ex.Var | None:
        """The variable with the length to which the packet is truncated, if the program does that."""
        return va.TRUNCATE if "truncate" in self.wishes else None

    def start(self) -> list[st.Stmt]:
        """Clear all requests."""
        requests = (va.CLONE, va.CLONE_LIST, va.RESUBMIT, va.RECIRCULATE)
        return [st.Assign(request.name, constant(0)) for request in requests] if self.any else []

    def take_along(self) -> list[st.Stmt]:
        """Restore, in ingress, the fields that a re-entering packet has kept."""
        names = (self._instance_type().name, va.ROUNDS.name, *(self.context.name(ref) for ref in self.preserved))
        return [st.TakeAlong(names)]

    def _instance_type(self) -> ex.Var:
        return self.context.intrinsic("instance_type") or va.INSTANCE_TYPE

    def _keep(self, request: ex.Var) -> list[st.Stmt]:
        """Keep the fields of the list whose number is in ``request``, and zero for the others."""
        branches: list[st.Branch] = []
        for number, fields in sorted(self.context.program.field_lists.items()):
            values = tuple(self.context.variable(ref) if ref in fields else constant(0) for ref in self.preserved)
            branches.append(st.Branch(ex.Compare("==", request, constant(number)), [st.Keep(values)]))
        nothing: list[st.Stmt] = [st.Keep((constant(0),) * len(self.preserved))]
        return [st.If(branches, nothing)] if branches and self.preserved else nothing

    def _kept(self, position: int) -> ex.Kept:
        return ex.Kept(*self.context.types.numbers[self.context.name(self.preserved[position])], position)

    def _of_metadata(self) -> set[str]:
        program = self.context.program
        refs = (FieldRef(h.name, f.name) for h in program.headers.values() if h.is_metadata for f in h.fields)
        return {self.context.name(ref) for ref in refs}

    def _carried(self, name: str) -> ex.Number | ex.BytesVar:
        interval = self.context.types.numbers.get(name)
        return ex.BytesVar(name) if interval is None else ex.Var(*interval, name)

    def _copied(
        self, carried: Sequence[str], kind: int, instead: Mapping[str, ex.BytesVar | ex.Var] | None = None
    ) -> ex.State:
        """Return the state of a copy: headers unchanged, metadata zero unless kept. ``instead`` replaces variables."""
        metadata = self._of_metadata()
        positions = {self.context.name(ref): i for i, ref in enumerate(self.preserved)}
        parts: list[ex.Number | ex.BytesVar] = []
        for name in carried:
            if name == self._instance_type().name:
                parts.append(constant(kind))
            elif name in positions:
                parts.append(self._kept(positions[name]))
            elif name in metadata or name in (va.TRUNCATE.name, va.ROUNDS.name):
                parts.append(constant(0))
            else:
                parts.append((instead or {}).get(name) or self._carried(name))
        return tuple(parts)

    def _priority(self) -> ex.Number:
        ref = self.context.program.intrinsic("priority")
        return self._kept(self.preserved.index(ref)) if ref in self.preserved else constant(0)

    def at_ingress_end(self, carried: Sequence[str]) -> tuple[list[st.Stmt], list[st.Stmt]]:
        """Return (clones, which precede digests; resubmission and multicast, which follow them and end ingress)."""
        clone: list[st.Stmt] = []
        rest: list[st.Stmt] = []
        if self.clones:
            request = st.CloneIngress(*self._cut_and_clone(), masked(va.CLONE, _SESSION_BITS), self._priority())
            clone = [st.when(not_zero(va.CLONE), [*self._keep(va.CLONE_LIST), request])]
        if "resubmit" in self.wishes:
            body = [*self._keep(va.RESUBMIT), self._again(RESUBMITTED, va.PORT, ex.PACKET), st.Drop()]
            rest.append(st.when(not_zero(va.RESUBMIT), body))
        if "multicast" in self.wishes:
            group, priority = self.context.intrinsic("mcast_grp"), self.context.intrinsic("priority")
            assert group is not None
            state = self.normal_state(carried, REPLICATED)
            send = st.Multicast(self._extern("multicast"), group, priority or constant(0), state)
            rest.append(st.when(not_zero(group), [send, st.Drop()]))
        return clone, rest

    def normal_state(self, carried: Sequence[str], kind: int = NORMAL) -> ex.State:
        """Return the state of a packet that continues to egress."""
        own = self._instance_type().name if self.any else None
        return tuple(constant(kind) if name == own else self._carried(name) for name in carried)

    def parsed_state(self, carried: Sequence[str]) -> ex.State:
        """Return the state of an ingress clone, right after it was parsed again."""
        return self._copied(carried, INGRESS_CLONE)

    def after_egress(self, carried: Sequence[str]) -> list[st.Stmt]:
        """Return the statements that clone what egress has made."""
        if not self.clones:
            return []
        state = self._copied(carried, EGRESS_CLONE, {ex.PACKET: ex.BytesVar(va.CUT), va.LENGTH_NOW.name: va.CUT_LENGTH})
        session = masked(va.CLONE, _SESSION_BITS)
        request = st.CloneEgress(*self._cut_and_clone("cut_end"), session, self._priority(), va.LENGTH_NOW, state)
        return [st.when(not_zero(va.CLONE), [*self._keep(va.CLONE_LIST), request])]

    def after_deparser(self) -> list[st.Stmt]:
        """Return the statements that recirculate the packet that would be sent."""
        if "recirculate" not in self.wishes:
            return []
        body = [*self._keep(va.RECIRCULATE), self._again(RECIRCULATED, constant(0), va.FRAME), st.Drop()]
        return [st.when(not_zero(va.RECIRCULATE), body)]

    def _again(self, kind: int, port: ex.Number, packet: str) -> st.Stmt:
        return st.ComeAgain(self._extern("again"), port, packet, kind, va.ROUNDS)

    def _cut_and_clone(self, cut: str = "cut") -> tuple[str, str]:
        return self._extern(cut), self._extern("clone")

    def _extern(self, name: str) -> str:
        return self.context.share_extern(name, f"spawn_{name}")
