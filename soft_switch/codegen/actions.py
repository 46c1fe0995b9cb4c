"""Compiles actions: their primitives in order, with the jumps between them."""

from __future__ import annotations

from collections.abc import Sequence

from soft_switch.codegen.compiler import Compiler, Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.graph import CycleError, post_dominators
from soft_switch.codegen.primitives import emit_primitive
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir.arithmetic import choice, constant
from soft_switch.ir.expressions import Number
from soft_switch.ir.liveness import written
from soft_switch.ir.statements import Assign, Break, Loop, Stmt, when
from soft_switch.model.program import Const, Primitive


def emit_action(
    context: Context, scope: Scope, primitives: Sequence[Primitive], params: tuple[Number, ...]
) -> list[Stmt]:
    """Return the statements of an action body and update ``scope``. An ``exit`` becomes a :class:`Break`."""
    return _Body(context, primitives, params).emit(0, None, scope)


class _Body:
    """Structurer that turns the jumps of an action back into nested conditionals."""

    def __init__(self, context: Context, primitives: Sequence[Primitive], params: tuple[Number, ...]) -> None:
        self._context = context
        self._primitives = primitives
        self._params = params
        self._meets: dict[int, int | None] | None
        try:
            self._meets = post_dominators(0 if primitives else None, self._successors)
        except CycleError:
            self._meets = None

    def _successors(self, index: int) -> list[int | None]:
        primitive = self._primitives[index]
        following = self._at(index + 1)
        if primitive.op == "_jump":
            return [self._target(primitive, 0)]
        if primitive.op == "_jump_if_zero":
            return [following, self._target(primitive, 1)]
        return [following]

    def _at(self, index: int) -> int | None:
        return index if index < len(self._primitives) else None

    def _target(self, primitive: Primitive, position: int) -> int | None:
        target = primitive.args[position]
        if not isinstance(target, Const):
            raise UnsupportedConstructError("computed jump", primitive.place)
        return self._at(target.value)

    def _loop(self, scope: Scope) -> list[Stmt]:
        """Compile an action with backward jumps: its straight parts become the parts of a loop."""
        jumps = [i for i, p in enumerate(self._primitives) if p.op in ("_jump", "_jump_if_zero")]
        starts = {0} | {after for i in jumps for after in self._successors(i) if after is not None}
        counter = self._context.fresh("part", (-1, len(self._primitives))).name
        parts: dict[int, list[Stmt]] = {}
        for start in sorted(starts):
            own, at = Scope(), start
            body: list[Stmt] = []
            while True:
                primitive = self._primitives[at]
                compiler = Compiler(self._context, own, primitive.place, self._params)
                following = [-1 if after is None else after for after in self._successors(at)]
                if primitive.op == "exit":
                    raise UnsupportedConstructError("exit in an action with a loop", primitive.place)
                if primitive.op == "_jump_if_zero":
                    condition = compiler.truth(primitive.args[0])
                    body.append(Assign(counter, choice(condition, constant(following[0]), constant(following[1]))))
                    break
                if primitive.op != "_jump":
                    body += emit_primitive(compiler, primitive)
                at = following[0]
                if at in starts or at < 0:
                    body.append(Assign(counter, constant(at)))
                    break
            parts[start] = body
        loop = Loop(counter, parts)
        scope.forget(written([loop]))
        return [Assign(counter, constant(0)), loop]

    def emit(self, start: int | None, stop: int | None, scope: Scope) -> list[Stmt]:
        if self._meets is None:
            return self._loop(scope)
        result: list[Stmt] = []
        at = start if self._primitives else None
        while at != stop and at is not None:
            primitive = self._primitives[at]
            compiler = Compiler(self._context, scope, primitive.place, self._params)
            if primitive.op == "exit":
                result += self.emit(self._at(at + 1), None, scope)
                result.append(Break())
                return result
            if primitive.op == "_jump_if_zero":
                meet = self._meets[at]
                yes, no = self._successors(at)
                condition = compiler.truth(primitive.args[0])
                one, other = scope.copy(), scope.copy()
                branch = when(condition, self.emit(yes, meet, one), self.emit(no, meet, other))
                result.append(branch)
                scope.forget(written([branch]))
                at = meet
                continue
            if primitive.op != "_jump":
                result += emit_primitive(compiler, primitive)
            at = self._successors(at)[0]
        return result
