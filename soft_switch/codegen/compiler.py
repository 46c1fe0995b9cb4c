"""Expressions of the program to Python text, with what is known about variables at the place where they stand."""

from __future__ import annotations

from soft_switch.codegen import operators
from soft_switch.codegen.context import Context
from soft_switch.codegen.ir import Assign, Stmt
from soft_switch.codegen.values import FALSE, TRUE, Truth, Value, constant, fit, variable
from soft_switch.errors import UnsupportedConstructError
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
    """What is known of variables at one place of the code: constants, copies and narrower intervals."""

    def __init__(self, known: dict[str, Value] | None = None) -> None:
        self._known = dict(known or {})

    def copy(self) -> Scope:
        """The same knowledge, for a branch."""
        return Scope(self._known)

    def look_up(self, name: str) -> Value | None:
        """What is known of a variable."""
        return self._known.get(name)

    def forget(self, names: set[str]) -> None:
        """Drops all that involves variables that may have changed."""
        for key, value in list(self._known.items()):
            if key in names or not value.reads.isdisjoint(names):
                del self._known[key]

    def learn(self, name: str, value: Value) -> None:
        """Notes that a variable now has the value of an expression."""
        self.forget({name})
        if (value.const is not None or value.text.isidentifier()) and name not in value.reads:
            self._known[name] = value
        else:
            self._known[name] = Value(name, value.low, value.high, frozenset((name,)), atom=True)


class Compiler:
    """Compiles expressions. ``params`` are the values of the enclosing action's parameters."""

    def __init__(self, context: Context, scope: Scope, place: str, params: tuple[Value, ...] = ()) -> None:
        self.context = context
        self.scope = scope
        self.place = place
        self.params = params

    def field(self, ref: FieldRef) -> Value:
        """The value of a field."""
        name = self.context.name(ref)
        known = self.scope.look_up(name)
        if known is not None:
            return known
        definition = self.context.program.field_def(ref)
        return variable(name, definition.width + (definition.most and definition.most + 1), definition.signed)

    def element(self, ref: ElementRef, name: str) -> Value:
        """A field of the element of a stack at a computed index; 0 where the stack has no such element."""
        headers = self.context.program.stacks[ref.stack]
        index = self.value(ref.index)
        if index.const is not None:
            return self.field(FieldRef(headers[index.const], name)) if 0 <= index.const < len(headers) else constant(0)
        values = [self.field(FieldRef(header, name)) for header in headers]
        text = f"({', '.join(v.text for v in values)},)[{index.text}]"
        if index.low < 0 or index.high >= len(headers):
            text = f"{text} if 0 <= {index.operand} < {len(headers)} else 0"
        reads = index.reads.union(*(v.reads for v in values))
        return Value(text, min(0, *(v.low for v in values)), max(0, *(v.high for v in values)), reads)

    def last(self, ref: LastField) -> Value:
        """A field of the element that the parser extracted last; 0 before there is one."""
        filled = self.field(FieldRef(ref.stack, NEXT)).const
        if filled is None:
            raise UnsupportedConstructError("last element of a stack outside of the parser", self.place)
        if filled == 0:
            return constant(0)
        return self.field(FieldRef(self.context.program.stacks[ref.stack][filled - 1], ref.name))

    def value(self, expr: Argument) -> Value:
        """A number."""
        if isinstance(expr, Const):
            return constant(expr.value)
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
            return constant(int(expr.value))
        if isinstance(expr, Op):
            return self._operation(expr)
        raise UnsupportedConstructError(f"operand {expr}", self.place)

    def truth(self, expr: Argument) -> Truth:
        """A condition."""
        if isinstance(expr, BoolConst):
            return TRUE if expr.value else FALSE
        if isinstance(expr, FieldRef):
            return self._not_zero(self.field(expr))
        if isinstance(expr, Op):
            if expr.op in ("and", "or") and expr.left is not None:
                second = self.assuming(expr.left, expr.op == "and")
                return operators.connective(expr.op, self.truth(expr.left), second.truth(expr.right))
            if expr.op == "not":
                return operators.negation(self.truth(expr.right))
            if expr.op == "valid" and isinstance(expr.right, HeaderRef):
                return self._not_zero(self.field(FieldRef(expr.right.name, VALID)))
            if expr.op == "valid" and isinstance(expr.right, ElementRef):
                return self._not_zero(self.element(expr.right, VALID))
            if expr.op == "valid_union" and isinstance(expr.right, UnionRef):
                return self._union_valid(expr.right)
            if expr.op == "d2b":
                return self._not_zero(self.value(expr.right))
            if expr.op == "b2d":
                return self.truth(expr.right)
            if expr.op in operators.COMPARISONS and expr.left is not None:
                return self._comparison(expr.op, expr.left, expr.right)
            if expr.op == "?" and self._is_truth(expr):
                condition, left, right = self.truth(expr.cond), self.truth(expr.left), self.truth(expr.right)
                if condition.known is not None:
                    return left if condition.known else right
                reads = condition.reads | left.reads | right.reads
                return Truth(f"{left.operand} if {condition.operand} else {right.operand}", reads)
        return self._not_zero(self.value(expr))

    def assume(self, expr: Argument, holds: bool) -> None:
        """Notes what follows for single variables from a condition that holds, or does not."""
        if isinstance(expr, FieldRef):
            if self.context.program.field_def(expr).width == 1:
                self.scope.learn(self.context.name(expr), constant(int(holds)))
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
                    self.scope.learn(self.context.name(left), constant(right.value))

    def assuming(self, expr: Argument, holds: bool) -> Compiler:
        """A compiler for places where a condition holds, or does not."""
        inner = Compiler(self.context, self.scope.copy(), self.place, self.params)
        inner.assume(expr, holds)
        return inner

    def assign(self, ref: FieldRef, value: Value) -> list[Stmt]:
        """Sets a field, reduced to its width."""
        definition = self.context.program.field_def(ref)
        value = fit(value, definition.width, definition.signed)
        name = self.context.name(ref)
        self.scope.learn(name, value)
        return [Assign(name, value.text, value.reads)]

    def overwritten(self, *names: str) -> None:
        """Notes that variables were set to something unknown."""
        self.scope.forget(set(names))

    def _operation(self, expr: Op) -> Value:
        op = expr.op
        if op == "b2d":
            return self._number(self.truth(expr.right))
        if op in _TRUTHS or op in operators.COMPARISONS:
            return self._number(self.truth(expr))
        if op == "?":
            condition, left, right = self.truth(expr.cond), self.value(expr.left), self.value(expr.right)
            if condition.known is not None:
                return left if condition.known else right
            text = f"{left.operand} if {condition.operand} else {right.operand}"
            reads = condition.reads | left.reads | right.reads
            return Value(text, min(left.low, right.low), max(left.high, right.high), reads)
        if op == "~":
            return operators.complement(self.value(expr.right))
        if expr.left is None:
            zero = constant(0)
            return operators.arithmetic(op, zero, self.value(expr.right))
        left = self.value(expr.left)
        if op in ("two_comp_mod", "sat_cast", "usat_cast"):
            width = self.value(expr.right).const
            if width is None or width <= 0:
                raise UnsupportedConstructError(f"{op} to a computed width", self.place)
            if op == "two_comp_mod":
                return operators.two_comp_mod(left, width)
            return operators.clamp(left, width, op == "sat_cast", self.context.fresh("t"))
        return operators.arithmetic(op, left, self.value(expr.right))

    def _comparison(self, op: str, left: Expr, right: Expr) -> Truth:
        if isinstance(left, HeaderRef) and isinstance(right, HeaderRef):
            return self._same_header(op, left, right)
        if self._is_truth(left) or self._is_truth(right):
            return operators.compare(op, self._number(self.truth(left)), self._number(self.truth(right)))
        return operators.compare(op, self.value(left), self.value(right))

    def _same_header(self, op: str, left: HeaderRef, right: HeaderRef) -> Truth:
        program = self.context.program
        one, other = program.headers[left.name], program.headers[right.name]
        if one.type_name != other.type_name:
            return FALSE if op == "==" else TRUE
        names = ["$valid$", *(f.name for f in one.fields)]
        pairs = [(self.field(FieldRef(left.name, n)), self.field(FieldRef(right.name, n))) for n in names]
        text = " and ".join(f"{a.operand} == {b.operand}" for a, b in pairs)
        reads = frozenset().union(*(a.reads | b.reads for a, b in pairs))
        truth = Truth(f"{pairs[0][0].operand} and {text}", reads)
        return truth if op == "==" else operators.negation(truth)

    def _union_valid(self, union: UnionRef) -> Truth:
        truth = FALSE
        for header in self.context.program.unions[union.name]:
            truth = operators.connective("or", truth, self._not_zero(self.field(FieldRef(header, VALID))))
        return truth

    def _is_truth(self, expr: Argument) -> bool:
        if isinstance(expr, BoolConst):
            return True
        if not isinstance(expr, Op):
            return False
        if expr.op == "?":
            return self._is_truth(expr.left)
        return expr.op in _TRUTHS or expr.op in operators.COMPARISONS

    @staticmethod
    def _not_zero(value: Value) -> Truth:
        if value.const is not None:
            return TRUE if value.const else FALSE
        if value.low >= 0 and value.high <= 1:
            return Truth(value.text, value.reads, number=value.text, atom=value.atom)
        return Truth(f"{value.operand} != 0", value.reads)

    @staticmethod
    def _number(truth: Truth) -> Value:
        if truth.known is not None:
            return constant(int(truth.known))
        if truth.number is not None:
            return Value(truth.number, 0, 1, truth.reads, atom=truth.atom)
        return Value(f"1 if {truth.text} else 0", 0, 1, truth.reads)
