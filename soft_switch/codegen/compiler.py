"""Compiles expressions of the program, using what is known about variables at their place in the code."""

from __future__ import annotations

from collections.abc import Iterable

from soft_switch.codegen.context import Context
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir import arithmetic
from soft_switch.ir import arithmetic as ar
from soft_switch.ir.expressions import Condition, Literal, Number, Var
from soft_switch.ir.statements import Assign, Perform
from soft_switch.model.program import (
    NEXT,
    VALID,
    BoolConst,
    Const,
    ElementField,
    ElementRef,
    Expr,
    FieldRef,
    HeaderRef,
    LastField,
    Op,
    Param,
    UnionRef,
)

Argument = object
_TRUTHS = ("and", "or", "not", "d2b", "valid", "valid_union")


class Scope:
    """Knowledge about variables at one place in the code: constants, copies and narrower intervals."""

    def __init__(self, known: dict[str, Literal | Var] | None = None) -> None:
        self._known = dict(known or {})

    def copy(self) -> Scope:
        """Return a copy, for a branch."""
        return Scope(self._known)

    def look_up(self, name: str) -> Literal | Var | None:
        """Return what is known about a variable."""
        return self._known.get(name)

    def forget(self, names: Iterable[str]) -> None:
        """Drop everything that involves variables that may have changed."""
        gone = set(names)
        for key, value in list(self._known.items()):
            if key in gone or (isinstance(value, Var) and value.name in gone):
                del self._known[key]

    def learn(self, name: str, value: Number) -> None:
        """Note that a variable now has the value of an expression."""
        self.forget((name,))
        if isinstance(value, Literal) or (isinstance(value, Var) and value.name != name):
            self._known[name] = value
        elif value.const is not None:
            self._known[name] = arithmetic.constant(value.const)
        else:
            self._known[name] = Var(value.low, value.high, name)


class Compiler:
    """Compiler of expressions. ``params`` are the values of the enclosing action's parameters."""

    def __init__(self, context: Context, scope: Scope, place: str, params: tuple[Number, ...] = ()) -> None:
        self.context = context
        self.scope = scope
        self.place = place
        self.params = params

    def field(self, ref: FieldRef) -> Number:
        """Return the value of a field."""
        return self.scope.look_up(self.context.name(ref)) or self.context.variable(ref)

    def element(self, ref: ElementRef, name: str) -> Number:
        """Return a field of the element of a stack at a computed index; 0 where the stack has no such element."""
        headers = self.context.program.stacks[ref.stack]
        index = self.value(ref.index)
        if index.const is not None:
            return (
                self.field(FieldRef(headers[index.const], name)) if 0 <= index.const < len(headers) else ar.constant(0)
            )
        return arithmetic.pick([self.field(FieldRef(header, name)) for header in headers], index)

    def last(self, ref: LastField) -> Number:
        """Return a field of the element that the parser extracted last; 0 before there is one."""
        filled = self.field(FieldRef(ref.stack, NEXT)).const
        if filled is None:
            raise UnsupportedConstructError("last element of a stack outside of the parser", self.place)
        if filled == 0:
            return ar.constant(0)
        return self.field(FieldRef(self.context.program.stacks[ref.stack][filled - 1], ref.name))

    def value(self, expr: Argument) -> Number:
        """Compile an expression to a number."""
        if isinstance(expr, Const):
            return ar.constant(expr.value)
        if isinstance(expr, FieldRef):
            return self.field(expr)
        if isinstance(expr, ElementField):
            return self.element(expr.element, expr.name)
        if isinstance(expr, LastField):
            return self.last(expr)
        if isinstance(expr, Param):
            if expr.index >= len(self.params):
                raise UnsupportedConstructError("action parameter outside of an action", self.place)
            return self.params[expr.index]
        if isinstance(expr, BoolConst):
            return ar.constant(int(expr.value))
        if isinstance(expr, Op):
            return self._operation(expr)
        raise UnsupportedConstructError(f"operand {expr}", self.place)

    def truth(self, expr: Argument) -> Condition:
        """Compile an expression to a condition."""
        if isinstance(expr, BoolConst):
            return ar.TRUE if expr.value else ar.FALSE
        if isinstance(expr, Op):
            if expr.op in ("and", "or") and expr.left is not None:
                second = self.assuming(expr.left, expr.op == "and")
                return arithmetic.connective(expr.op, self.truth(expr.left), second.truth(expr.right))
            if expr.op == "not":
                return arithmetic.negation(self.truth(expr.right))
            if expr.op == "valid" and isinstance(expr.right, HeaderRef):
                return ar.not_zero(self.field(FieldRef(expr.right.name, VALID)))
            if expr.op == "valid" and isinstance(expr.right, ElementRef):
                return ar.not_zero(self.element(expr.right, VALID))
            if expr.op == "valid_union" and isinstance(expr.right, UnionRef):
                return self._union_valid(expr.right)
            if expr.op == "d2b":
                return ar.not_zero(self.value(expr.right))
            if expr.op == "b2d":
                return self.truth(expr.right)
            if expr.op in arithmetic.COMPARISONS and expr.left is not None:
                return self._comparison(expr.op, expr.left, expr.right)
            if expr.op == "?" and self._is_truth(expr):
                return arithmetic.either(self.truth(expr.cond), self.truth(expr.left), self.truth(expr.right))
        return ar.not_zero(self.value(expr))

    def assume(self, expr: Argument, holds: bool) -> None:
        """Note what a condition that holds, or does not hold, says about single variables."""
        if isinstance(expr, FieldRef):
            if self.context.program.field_def(expr).width == 1:
                self.scope.learn(self.context.name(expr), ar.constant(int(holds)))
        elif isinstance(expr, Op):
            if expr.op in ("d2b", "b2d"):
                self.assume(expr.right, holds)
            elif expr.op == "not":
                self.assume(expr.right, not holds)
            elif expr.op == "valid" and isinstance(expr.right, HeaderRef):
                self.assume(FieldRef(expr.right.name, VALID), holds)
            elif (expr.op, holds) in (("and", True), ("or", False)):
                self.assume(expr.left, holds)
                self.assume(expr.right, holds)
            elif (expr.op, holds) in (("==", True), ("!=", False)):
                left, right = expr.left, expr.right
                if isinstance(left, FieldRef) and isinstance(right, Const):
                    self.scope.learn(self.context.name(left), ar.constant(right.value))

    def assuming(self, expr: Argument, holds: bool) -> Compiler:
        """Return a compiler for places where a condition holds, or where it does not."""
        inner = Compiler(self.context, self.scope.copy(), self.place, self.params)
        inner.assume(expr, holds)
        return inner

    def fitted(self, ref: FieldRef, value: Number) -> Number:
        """Return the value reduced to the width of a field."""
        definition = self.context.program.field_def(ref)
        return ar.fit(value, definition.width, definition.signed)

    def assign(self, ref: FieldRef, value: Number) -> Assign:
        """Set a field, reduced to its width."""
        name, value = self.context.name(ref), self.fitted(ref, value)
        self.scope.learn(name, value)
        return Assign(name, value)

    def perform(self, ref: FieldRef, value: Number) -> Perform:
        """Set a field to a value whose computation has an effect."""
        name = self.context.name(ref)
        self.scope.forget((name,))
        return Perform(name, self.fitted(ref, value))

    def _operation(self, expr: Op) -> Number:
        op = expr.op
        if op in _TRUTHS or op in arithmetic.COMPARISONS:
            return ar.as_number(self.truth(expr))
        if op == "b2d":
            return ar.as_number(self.truth(expr.right))
        if op == "?":
            return arithmetic.choice(self.truth(expr.cond), self.value(expr.left), self.value(expr.right))
        if op == "~":
            return arithmetic.complement(self.value(expr.right))
        left = ar.constant(0) if expr.left is None else self.value(expr.left)
        if op in ("two_comp_mod", "sat_cast", "usat_cast"):
            width = self.value(expr.right).const
            if width is None or width <= 0:
                raise UnsupportedConstructError(f"{op} to a computed width", self.place)
            if op == "two_comp_mod":
                return ar.fit(left, width, True)
            temporary = self.context.fresh("t", (left.low, left.high))
            return arithmetic.clamp(left, width, op == "sat_cast", temporary.name)
        return arithmetic.arithmetic(op, left, self.value(expr.right))

    def _comparison(self, op: str, left: Expr, right: Expr) -> Condition:
        if isinstance(left, HeaderRef) and isinstance(right, HeaderRef):
            return self._same_header(op, left, right)
        if self._is_truth(left) or self._is_truth(right):
            return arithmetic.compare(op, ar.as_number(self.truth(left)), ar.as_number(self.truth(right)))
        return arithmetic.compare(op, self.value(left), self.value(right))

    def _same_header(self, op: str, left: HeaderRef, right: HeaderRef) -> Condition:
        program = self.context.program
        one, other = program.headers[left.name], program.headers[right.name]
        if one.type_name != other.type_name:
            return ar.FALSE if op == "==" else ar.TRUE
        same = ar.not_zero(self.field(FieldRef(left.name, VALID)))
        for name in (VALID, *(f.name for f in one.fields)):
            equal = arithmetic.compare(
                "==", self.field(FieldRef(left.name, name)), self.field(FieldRef(right.name, name))
            )
            same = arithmetic.connective("and", same, equal)
        return same if op == "==" else arithmetic.negation(same)

    def _union_valid(self, union: UnionRef) -> Condition:
        truth: Condition = ar.FALSE
        for header in self.context.program.unions[union.name]:
            truth = arithmetic.connective("or", truth, ar.not_zero(self.field(FieldRef(header, VALID))))
        return truth

    def _is_truth(self, expr: Argument) -> bool:
        if isinstance(expr, BoolConst):
            return True
        if not isinstance(expr, Op):
            return False
        if expr.op == "?":
            return self._is_truth(expr.left)
        return expr.op in _TRUTHS or expr.op in arithmetic.COMPARISONS
