"""Control blocks: tables and conditionals as nested code, with every action written out where its table is applied."""

from __future__ import annotations

from dataclasses import dataclass

from soft_switch.codegen.actions import emit_action
from soft_switch.codegen.compiler import Compiler, Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.extern_primitives import CLOCK, LENGTH
from soft_switch.codegen.graph import CycleError, post_dominators
from soft_switch.codegen.hashing import memoised_hash
from soft_switch.codegen.ir import Assign, Block, Break, Effect, If, Names, Stmt, written
from soft_switch.codegen.values import Value, constant, fit
from soft_switch.errors import UnsupportedConstructError
from soft_switch.model.controls import successors
from soft_switch.model.program import ConditionalDef, ControlDef, TableDef
from soft_switch.tables.entry import LAST_HIT_AT
from soft_switch.tables.table import GROUP

MAX_NODES = 20_000
"""Tables and conditionals that a control block may have when ways that cross are written out more than once."""


def emit_control(context: Context, control: ControlDef, scope: Scope) -> list[Stmt]:
    """Statements of a control block; ``exit`` leaves it."""
    return [Block(_Control(context, control).chain(control.first, None, scope))]


@dataclass(slots=True)
class _Way:
    """What one action of a table does, and where control goes afterwards."""

    action_id: int
    body: list[Stmt]
    scope: Scope
    following: str | None


class _Control:
    def __init__(self, context: Context, control: ControlDef) -> None:
        self._context = context
        self._control = control
        self._emitted = 0
        try:
            self._meets = post_dominators(control.first, lambda name: successors(control.nodes[name]))
        except CycleError as error:
            raise UnsupportedConstructError("loop of tables", f"{control.name}, {error.node}") from error

    def chain(self, at: str | None, stop: str | None, scope: Scope) -> list[Stmt]:
        """Everything from ``at`` on, up to ``stop``. ``scope`` is brought up to date."""
        result: list[Stmt] = []
        while at != stop and at is not None:
            self._emitted += 1
            if self._emitted > MAX_NODES:
                raise UnsupportedConstructError("control flow that crosses over too often", self._control.name)
            node = self._control.nodes[at]
            meet = self._meets[at]
            if isinstance(node, ConditionalDef):
                at = self._conditional(node, meet, scope, result)
            else:
                at = self._apply(node, meet, scope, result)
            if result and isinstance(result[-1], Break):
                break
        return result

    def _conditional(self, node: ConditionalDef, meet: str | None, scope: Scope, result: list[Stmt]) -> str | None:
        compiler = Compiler(self._context, scope, node.place)
        condition = compiler.truth(node.condition)
        if condition.known is not None:
            return node.true_next if condition.known else node.false_next
        yes = self.chain(node.true_next, meet, compiler.assuming(node.condition, True).scope)
        no = self.chain(node.false_next, meet, compiler.assuming(node.condition, False).scope)
        branch = If([(condition.text, condition.reads, yes)], no)
        scope.forget(written([branch]))
        result.append(branch)
        return meet

    def _apply(self, table: TableDef, meet: str | None, scope: Scope, result: list[Stmt]) -> str | None:
        if not table.keys and table.default is not None and table.default_is_const and table.profile is None:
            action_id, args = table.default
            action = self._context.program.actions[action_id]
            result += emit_action(self._context, scope, action.primitives, tuple(constant(a) for a in args))
            return table.hit_miss[1] if table.hit_miss else table.next_by_action.get(action_id, table.next_default)
        found = self._look_up(table, scope, result)
        ways = [self._way(table, action_id, found, scope) for action_id in table.action_ids]
        ends = {way.following for way in ways}
        if table.profile is not None or table.default is None:
            ends.add(table.next_default)
        reads: Names = frozenset((found,))
        if table.hit_miss is not None:
            self._dispatch(ways, None, found, table, scope, result)
            hit = self.chain(table.hit_miss[0], meet, scope.copy())
            miss = self.chain(table.hit_miss[1], meet, scope.copy())
            branch = If([(f"{found}[1]", reads, hit)], miss)
            scope.forget(written([branch]))
            result.append(branch)
            return meet
        if len(ends) == 1:
            self._dispatch(ways, None, found, table, scope, result)
            return ends.pop()
        for way in ways:
            if not (way.body and isinstance(way.body[-1], Break)):
                way.body += self.chain(way.following, meet, way.scope)
        otherwise = self.chain(table.next_default, meet, scope.copy())
        self._dispatch(ways, otherwise, found, table, scope, result)
        return meet

    def _look_up(self, table: TableDef, scope: Scope, result: list[Stmt]) -> str:
        context = self._context
        runtime = context.externs[f"table:{table.name}"]
        compiler = Compiler(context, scope, table.place)
        keys = []
        reads: set[str] = set()
        for key in table.keys:
            value = compiler.field(key.target)
            definition = context.program.field_def(key.target)
            value = fit(value, definition.width, False)
            text = value.text if key.mask is None else f"{value.operand} & {key.mask:#x}"
            keys.append(text)
            reads |= value.reads
        results = context.share(f"table_{table.name}", runtime.results)
        found = context.fresh("r")
        result.append(Assign(found, f"{results}[{', '.join(keys) or '0'}]", frozenset(reads)))
        this: Names = frozenset((found,))
        if table.profile is not None:
            profile = self._control.profiles[table.profile]
            if profile.algorithm is not None:
                choice = memoised_hash(compiler, profile.algorithm, profile.inputs, profile.name, profile.place)
                pick = Assign(found, f"{found}[3][{choice.text} % len({found}[3])]", choice.reads | this)
                result.append(If([(f"{found}[0] == {GROUP}", this, [pick])]))
        on_hit: list[Stmt] = []
        if table.meter is not None:
            on_hit += self._direct_meter(table, found, scope)
        if table.has_counter:
            entry = context.fresh("e")
            lines = (f"{entry} = {found}[2].cells", f"{entry}[0] += 1", f"{entry}[1] += n")
            on_hit.append(Effect(lines, this | LENGTH))
        if table.ages:
            on_hit.append(Effect((f"{found}[2].cells[{LAST_HIT_AT}] = now_ns",), this | CLOCK))
        if on_hit:
            result.append(If([(f"{found}[1]", this, on_hit)]))
        return found

    def _direct_meter(self, table: TableDef, found: str, scope: Scope) -> list[Stmt]:
        context = self._context
        definition = context.program.meters.get(table.meter or "")
        if definition is None or definition.result is None:
            raise UnsupportedConstructError(f"direct meter {table.meter!r} without a result", table.place)
        execute = context.share(f"{table.meter}_execute", context.externs[f"direct_meter:{table.meter}"].execute)
        target = context.name(definition.result)
        width = context.program.field_def(definition.result).width
        colour = fit(Value(f"{execute}({found}[2], n, now_ns)", 0, 2, atom=True), width, False)
        scope.forget({target})
        return [Effect((f"{target} = {colour.text}",), frozenset((found,)) | LENGTH | CLOCK, frozenset((target,)))]

    def _way(self, table: TableDef, action_id: int, found: str, scope: Scope) -> _Way:
        action = self._context.program.actions[action_id]
        reads: Names = frozenset((found,))
        params = tuple(
            Value(f"{found}[{3 + i}]", 0, (1 << width) - 1, reads, atom=True)
            for i, (_, width) in enumerate(action.params)
        )
        inner = scope.copy()
        body = emit_action(self._context, inner, action.primitives, params)
        return _Way(action_id, body, inner, table.next_by_action.get(action_id))

    def _dispatch(
        self,
        ways: list[_Way],
        otherwise: list[Stmt] | None,
        found: str,
        table: TableDef,
        scope: Scope,
        result: list[Stmt],
    ) -> None:
        """Adds the choice between the actions. ``otherwise`` is for a result that runs none of them."""
        reads: Names = frozenset((found,))
        todo = [way for way in ways if way.body or otherwise is not None]
        if not todo:
            return
        # With a default action and no profile the action is always one of the table's.
        complete = len(todo) == len(ways) and table.default is not None and table.profile is None
        last = list(otherwise or [])
        if complete:
            last = todo.pop().body
        chosen = f"{found}[0]"
        if len(todo) > 1:
            name = self._context.fresh("a")
            result.append(Assign(name, chosen, reads))
            chosen, reads = name, frozenset((name,))
        if todo:
            branch: Stmt = If([(f"{chosen} == {way.action_id}", reads, way.body) for way in todo], last)
            result.append(branch)
        else:
            result += last
        scope.forget(written(result[-1:] if todo else last))
