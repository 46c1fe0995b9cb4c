"""Compiles control blocks to nested code, with every action written out where its table is applied."""

from __future__ import annotations

from dataclasses import dataclass

from soft_switch.codegen.actions import emit_action
from soft_switch.codegen.compiler import Compiler, Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.graph import CycleError, post_dominators
from soft_switch.codegen.hashing import memoised_hash
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir import expressions as ex
from soft_switch.ir import statements as st
from soft_switch.ir.arithmetic import constant, fit, limits, masked
from soft_switch.ir.liveness import written
from soft_switch.model.controls import successors
from soft_switch.model.externs import DirectMeter
from soft_switch.model.program import ConditionalDef, ControlDef, TableDef
from soft_switch.tables.table import GROUP

MAX_NODES = 20_000
"""Limit for tables and conditionals of a control block, counting those that are written out more than once."""


def emit_control(context: Context, control: ControlDef, scope: Scope) -> list[st.Stmt]:
    """Return the statements of a control block, which ``exit`` leaves."""
    return [st.Block(_Control(context, control).chain(control.first, None, scope))]


@dataclass(slots=True)
class _Path:
    """Statements of one action of a table, and the node to which control goes afterwards."""

    action_id: int
    body: list[st.Stmt]
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

    def chain(self, at: str | None, stop: str | None, scope: Scope) -> list[st.Stmt]:
        """Compile everything from ``at`` up to ``stop``, and update ``scope``."""
        result: list[st.Stmt] = []
        while at != stop and at is not None:
            self._emitted += 1
            if self._emitted > MAX_NODES:
                raise UnsupportedConstructError("control flow whose paths cross too often", self._control.name)
            node = self._control.nodes[at]
            meet = self._meets[at]
            if isinstance(node, ConditionalDef):
                at = self._conditional(node, meet, scope, result)
            else:
                at = self._apply(node, meet, scope, result)
            if result and isinstance(result[-1], st.Break):
                break
        return result

    def _conditional(self, node: ConditionalDef, meet: str | None, scope: Scope, result: list[st.Stmt]) -> str | None:
        compiler = Compiler(self._context, scope, node.place)
        condition = compiler.truth(node.condition)
        if condition.known is not None:
            return node.true_next if condition.known else node.false_next
        yes = self.chain(node.true_next, meet, compiler.assuming(node.condition, True).scope)
        no = self.chain(node.false_next, meet, compiler.assuming(node.condition, False).scope)
        branch = st.when(condition, yes, no)
        scope.forget(written([branch]))
        result.append(branch)
        return meet

    def _apply(self, table: TableDef, meet: str | None, scope: Scope, result: list[st.Stmt]) -> str | None:
        if not table.keys and table.default is not None and table.default_is_const and table.profile is None:
            action_id, args = table.default
            action = self._context.program.actions[action_id]
            result += emit_action(self._context, scope, action.primitives, tuple(constant(a) for a in args))
            return table.hit_miss[1] if table.hit_miss else table.next_by_action.get(action_id, table.next_default)
        found = self._look_up(table, scope, result)
        paths = [self._path(table, action_id, found, scope) for action_id in table.action_ids]
        ends = {path.following for path in paths}
        if table.profile is not None or table.default is None:
            ends.add(table.next_default)
        if table.hit_miss is not None:
            self._dispatch(paths, None, found, table, scope, result)
            hit = self.chain(table.hit_miss[0], meet, scope.copy())
            miss = self.chain(table.hit_miss[1], meet, scope.copy())
            branch = st.when(_is_hit(found), hit, miss)
            scope.forget(written([branch]))
            result.append(branch)
            return meet
        if len(ends) == 1:
            self._dispatch(paths, None, found, table, scope, result)
            return ends.pop()
        for path in paths:
            if not (path.body and isinstance(path.body[-1], st.Break)):
                path.body += self.chain(path.following, meet, path.scope)
        otherwise = self.chain(table.next_default, meet, scope.copy())
        self._dispatch(paths, otherwise, found, table, scope, result)
        return meet

    def _look_up(self, table: TableDef, scope: Scope, result: list[st.Stmt]) -> str:
        context = self._context
        runtime = context.externs[f"table:{table.name}"]
        compiler = Compiler(context, scope, table.place)
        keys: list[ex.Number] = []
        for key in table.keys:
            value = fit(compiler.field(key.target), context.program.field_def(key.target).width, False)
            keys.append(value if key.mask is None else masked(value, key.mask))
        found = context.fresh_record(runtime)
        result.append(st.LookUp(found, context.share(f"table_{table.name}", runtime.results), tuple(keys)))
        if table.profile is not None:
            profile = self._control.profiles[table.profile]
            if profile.algorithm is not None:
                hashed = memoised_hash(compiler, profile.algorithm, profile.inputs, profile.name, profile.place)
                result.append(
                    st.when(ex.Compare("==", self._action(found), constant(GROUP)), [st.ChooseMember(found, hashed)])
                )
        on_hit: list[st.Stmt] = []
        if table.meter is not None:
            on_hit.append(self._direct_meter(table, found, scope))
        if table.has_counter:
            on_hit.append(st.CountHit(found))
        if table.ages:
            on_hit.append(st.NoteHit(found))
        if on_hit:
            result.append(st.when(_is_hit(found), on_hit))
        return found

    def _direct_meter(self, table: TableDef, found: str, scope: Scope) -> st.Stmt:
        context = self._context
        definition = context.program.meters.get(table.meter or "")
        if definition is None or definition.result is None:
            raise UnsupportedConstructError(f"direct meter {table.meter!r} without a result", table.place)
        meter: DirectMeter = context.externs[f"direct_meter:{table.meter}"]
        colour = ex.EntryMeter(0, 2, context.share(f"{table.meter}_execute", meter.execute), meter, found)
        compiler = Compiler(context, scope, table.place)
        return compiler.perform(definition.result, colour)

    def _path(self, table: TableDef, action_id: int, found: str, scope: Scope) -> _Path:
        action = self._context.program.actions[action_id]
        params = tuple(
            ex.ResultField(*limits(width, False), found, ex.PARAMETERS + position)
            for position, (_, width) in enumerate(action.params)
        )
        inner = scope.copy()
        body = emit_action(self._context, inner, action.primitives, params)
        return _Path(action_id, body, inner, table.next_by_action.get(action_id))

    def _action(self, found: str) -> ex.Number:
        ids = [GROUP, 0, *(number for number, _ in self._context.types.records[found].actions.values())]
        return ex.ResultField(min(ids), max(ids), found, ex.ACTION)

    def _dispatch(
        self,
        paths: list[_Path],
        otherwise: list[st.Stmt] | None,
        found: str,
        table: TableDef,
        scope: Scope,
        result: list[st.Stmt],
    ) -> None:
        """Add the choice between the actions. ``otherwise`` is for a result that runs no action."""
        todo = [path for path in paths if path.body or otherwise is not None]
        if not todo:
            return
        # With a default action and no profile the action is always one of the table's.
        complete = len(todo) == len(paths) and table.default is not None and table.profile is None
        last = list(otherwise or [])
        if complete:
            last = todo.pop().body
        chosen = self._action(found)
        if len(todo) > 1:
            held, chosen = self._context.hold("a", chosen)
            result.append(held)
        if todo:
            result.append(
                st.If([st.Branch(ex.Compare("==", chosen, constant(path.action_id)), path.body) for path in todo], last)
            )
        else:
            result += last
        scope.forget(written(result[-1:] if todo else last))


def _is_hit(found: str) -> ex.Condition:
    return ex.NotZero(ex.ResultField(0, 1, found, ex.HIT))
