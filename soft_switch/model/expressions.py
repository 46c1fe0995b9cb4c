"""Reads expressions, primitives and references of the bmv2 JSON."""

from __future__ import annotations

from typing import Any

from soft_switch.errors import UnsupportedConstructError
from soft_switch.model.program import (
    NEXT,
    Argument,
    BoolConst,
    Const,
    ElementField,
    ElementRef,
    Expr,
    FieldRef,
    HeaderRef,
    LastField,
    Lookahead,
    ObjectRef,
    Op,
    Param,
    Primitive,
    Program,
    StackRef,
    UnionRef,
)

Json = dict[str, Any]

BINARY = frozenset(
    {"+", "-", "*", "/", "%", "<<", ">>", "&", "|", "^", "==", "!=", ">", ">=", "<", "<=", "and", "or"}
    | {"two_comp_mod", "sat_cast", "usat_cast"}
)
"""Operations with two operands."""
UNARY = frozenset({"not", "~", "valid", "valid_union", "d2b", "b2d", "-", "+"})
"""Operations with one operand."""
_OBJECTS = {"counter_array": "counters", "meter_array": "meters", "register_array": "registers"}
MAX_WIDTH = 2048
"""Most bits of a field; p4c's own limit."""


def read_width(value: Any) -> int:
    """Read a number of bits.

    Raises:
        ValueError: no field can have this width.
    """
    if not isinstance(value, int) or not 0 < value <= MAX_WIDTH:
        raise ValueError(f"a width of {value!r} bits")
    return value


def place_of(item: object, otherwise: str) -> str:
    """Return the source location ``file:line`` of an object of the JSON; ``otherwise`` if it does not say."""
    info = item.get("source_info") if isinstance(item, dict) else None
    if not isinstance(info, dict) or "filename" not in info:
        return otherwise
    return f"{info['filename']}:{info.get('line', '?')}"


def read_field(value: object, program: Program) -> FieldRef:
    """Read a [header, field] pair.

    Raises:
        KeyError: the program has no such field.
    """
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        raise UnsupportedConstructError("field at a computed index where a field must be named", "a key")
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{value!r} is not a field")
    ref = FieldRef(str(value[0]), str(value[1]))
    program.headers[ref.header]
    program.field_def(ref)
    return ref


def read_expression(item: Json, program: Program, place: str) -> Expr:
    """Read an expression in the JSON's type-value form."""
    kind = item.get("type", "expression")
    value: Any = item["value"] if "type" in item else item
    if kind == "expression":
        if "type" in value:
            return read_expression(value, program, place)
        return _read_op(value, program, place)
    if kind == "hexstr":
        return Const(int(value, 16))
    if kind == "bool":
        return BoolConst(bool(value))
    if kind == "field":
        return read_field(value, program)
    if kind in ("local", "runtime_data"):
        return Param(int(value))
    if kind == "header":
        if isinstance(value, dict):
            return read_expression(value, program, place)
        program.headers[value]
        return HeaderRef(str(value))
    if kind == "lookahead":
        return Lookahead(int(value[0]), read_width(value[1]))
    if kind in ("header_stack", "header_union_stack"):
        program.stacks[value]
        return StackRef(str(value))
    if kind == "header_union":
        program.unions[value]
        return UnionRef(str(value))
    if kind == "stack_field":
        return read_last(value, program)
    raise UnsupportedConstructError(f"operand of type {kind!r}", place)


def read_last(value: object, program: Program) -> LastField:
    """Read a [stack, field] pair.

    Raises:
        KeyError: the program has no such field.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{value!r} is not a field of a stack")
    last = LastField(str(value[0]), str(value[1]))
    program.field_def(FieldRef(program.stacks[last.stack][0], last.name))
    return last


def _read_op(item: Json, program: Program, place: str) -> Expr:
    op = item["op"]
    if op in ("dereference_header_stack", "dereference_union_stack"):
        stack = read_expression(item["left"], program, place)
        if not isinstance(stack, StackRef) or program.stacks[stack.name][0] in program.unions:
            raise UnsupportedConstructError("stack of header unions with a computed index", place)
        return ElementRef(stack.name, read_expression(item["right"], program, place))
    if op == "access_field":
        element = read_expression(item["left"], program, place)
        if not isinstance(element, ElementRef):
            raise UnsupportedConstructError("field of a computed header", place)
        fields = program.headers[program.stacks[element.stack][0]].fields
        return ElementField(element, fields[int(item["right"])].name)
    if op == "last_stack_index":
        stack = read_expression(item["right"], program, place)
        if not isinstance(stack, StackRef):
            raise ValueError(f"{op} of {stack}")
        return Op("-", FieldRef(stack.name, NEXT), Const(1))
    right = read_expression(item["right"], program, place)
    left = None if item.get("left") is None else read_expression(item["left"], program, place)
    if op == "?":
        return Op(op, left, right, read_expression(item["cond"], program, place))
    if op not in (BINARY if left is not None else UNARY):
        raise UnsupportedConstructError(f"operation {op!r}", place)
    return Op(op, left, right)


def read_primitive(item: Json, program: Program, otherwise: str) -> Primitive:
    """Read a call of a primitive with its arguments."""
    place = place_of(item, otherwise)
    return Primitive(item["op"], tuple(_read_argument(p, program, place) for p in item["parameters"]), place)


def _read_argument(item: Json, program: Program, place: str) -> Argument:
    kind, value = item["type"], item["value"]
    if kind in _OBJECTS:
        getattr(program, _OBJECTS[kind])[value]
        return ObjectRef(kind, value)
    if kind == "calculation":
        program.calculations[value]
        return ObjectRef(kind, value)
    if kind == "string":
        return str(value)
    if kind == "parameters_vector":
        return tuple(read_expression(v, program, place) for v in value)
    return read_expression(item, program, place)
