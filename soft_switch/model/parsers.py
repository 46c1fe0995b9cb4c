"""Reads the parser and the deparser of the bmv2 JSON."""

from __future__ import annotations

from soft_switch.errors import ArtifactError, UnsupportedConstructError
from soft_switch.model.expressions import (
    Json,
    place_of,
    read_expression,
    read_field,
    read_last,
    read_primitive,
    read_width,
)
from soft_switch.model.program import (
    Const,
    FieldRef,
    HeaderRef,
    LastField,
    Lookahead,
    NextElement,
    ParserOp,
    ParserState,
    Program,
    Transition,
    ValueSetDef,
)
from soft_switch.model.sections import read_each, section


def read_parser(root: Json, program: Program) -> None:
    """Read value sets and parser states into ``program``."""
    for value_set in read_each(root, "parse_vsets", _read_value_set) if root.get("parse_vsets") else ():
        program.value_sets[value_set.name] = value_set
    with section("parsers"):
        parsers = [p for p in root["parsers"] if p["name"] == "parser"]
        if not parsers:
            return
        program.first_state = parsers[0]["init_state"]
    for state in read_each(parsers[0], "parse_states", lambda s: _read_state(s, program)):
        program.states[state.name] = state
    for state in program.states.values():
        for transition in state.transitions:
            if transition.next_state is not None and transition.next_state not in program.states:
                raise ArtifactError(f"parser state {state.name!r}: unknown next state {transition.next_state!r}")
    if program.first_state is not None and program.first_state not in program.states:
        raise ArtifactError(f"parser: unknown first state {program.first_state!r}")


def _read_value_set(item: Json) -> ValueSetDef:
    return ValueSetDef(str(item["name"]), int(item.get("max_size", 0)))


def _read_state(item: Json, program: Program) -> ParserState:
    name = item["name"]
    key: list[FieldRef | LastField | Lookahead] = []
    widths = []
    for part in item["transition_key"]:
        if part["type"] == "field":
            ref = read_field(part["value"], program)
            widths.append(program.field_def(ref).width)
            key.append(ref)
        elif part["type"] == "stack_field":
            last = read_last(part["value"], program)
            widths.append(program.field_def(FieldRef(program.stacks[last.stack][0], last.name)).width)
            key.append(last)
        elif part["type"] == "lookahead":
            key.append(Lookahead(int(part["value"][0]), read_width(part["value"][1])))
            widths.append(read_width(part["value"][1]))
        else:
            raise UnsupportedConstructError(f"select on a {part['type']}", f"parser state {name}")
    transitions = []
    for cfg in item["transitions"]:
        if cfg.get("type") == "default" or cfg.get("value") == "default":
            transitions.append(Transition((), cfg["next_state"]))
        elif cfg.get("type", "hexstr") == "hexstr":
            transitions.append(Transition(_split_key(cfg, widths), cfg["next_state"]))
        elif cfg["type"] == "parse_vset" and not cfg.get("mask"):
            value_set = program.value_sets[cfg["value"]]
            if value_set.widths not in ((), tuple(widths)):
                raise ValueError(f"value set {value_set.name!r} is used with {value_set.widths} and {widths} bits")
            value_set.widths = tuple(widths)
            transitions.append(Transition((), cfg["next_state"], value_set.name))
        else:
            raise UnsupportedConstructError(f"transition on a {cfg['type']}", f"parser state {name}")
    ops = tuple(_read_parser_op(op, program, name) for op in item["parser_ops"])
    return ParserState(name, ops, tuple(key), tuple(transitions))


def _split_key(cfg: Json, widths: list[int]) -> tuple[tuple[int, int], ...]:
    """Split a value and its mask, which hold the parts of the key in order, each padded to whole bytes."""
    value = int(cfg["value"], 16)
    mask = int(cfg["mask"], 16) if cfg.get("mask") else -1
    parts = []
    for width in reversed(widths):
        padded, ones = (width + 7) // 8 * 8, (1 << width) - 1
        part_mask = mask & ones
        parts.append((value & ones & part_mask, part_mask))
        value >>= padded
        mask >>= padded
    return tuple(reversed(parts))


def _read_parser_op(item: Json, program: Program, state: str) -> ParserOp:
    kind, parameters, place = item["op"], item["parameters"], place_of(item, f"parser state {state}")
    if kind in ("extract", "extract_VL"):
        target = _read_extracted(parameters[0], program, place)
        if kind == "extract":
            return ParserOp(kind, (target,))
        return ParserOp("extract", (target, read_expression(parameters[1], program, place)))
    if kind == "set":
        return ParserOp(kind, tuple(read_expression(p, program, place) for p in parameters))
    if kind == "verify":
        return ParserOp(kind, tuple(read_expression(p, program, place) for p in parameters))
    if kind == "advance":
        return ParserOp(kind, (read_expression(parameters[0], program, place),))
    if kind == "shift":
        return ParserOp("advance", (Const(int(parameters[0]) * 8),))
    if kind == "primitive":
        return ParserOp(kind, (), read_primitive(parameters[0], program, place))
    raise UnsupportedConstructError(f"parser operation {kind!r}", place)


def _read_extracted(item: Json, program: Program, place: str) -> HeaderRef | NextElement:
    kind, value = item["type"], item["value"]
    if kind == "regular":
        program.headers[value]
        return HeaderRef(value)
    if kind == "stack":
        program.stacks[value]
        return NextElement(value, None)
    if kind == "union_stack":
        union = program.stacks[value[0]][0]
        members = [name.rpartition(".")[2] for name in program.unions[union]]
        return NextElement(value[0], members.index(value[1]))
    raise UnsupportedConstructError(f"extract into a {kind}", place)


def read_deparser(root: Json, program: Program) -> None:
    """Read the order in which headers are emitted into ``program``."""
    for item in read_each(root, "deparsers", lambda d: d):
        if item.get("name") != "deparser":
            continue
        with section("deparser"):
            program.deparser_order = tuple(str(name) for name in item["order"])
            for name in program.deparser_order:
                program.headers[name]
            program.deparser_primitives = tuple(
                read_primitive(p, program, "deparser") for p in item.get("primitives", ())
            )
