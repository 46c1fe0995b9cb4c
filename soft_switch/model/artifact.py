"""Reads the JSON that p4c's bmv2 backend writes (format 2.x) into a :class:`~soft_switch.model.program.Program`.

Whatever is not of the expected form ends in an :class:`ArtifactError` that names the place, and whatever the switch
does not run in an :class:`UnsupportedConstructError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from soft_switch.errors import ArtifactError, UnsupportedConstructError
from soft_switch.model import expressions
from soft_switch.model.controls import read_control
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
    Action,
    ArrayDef,
    Calculation,
    ChecksumDef,
    Const,
    DigestDef,
    FieldDef,
    FieldRef,
    HeaderDef,
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

Item = TypeVar("Item")

FORMAT_MAJOR = 2
"""Major version of the JSON format that is understood."""
MAX_VARIABLE_BYTES = 1 << 14
"""Bytes that a header with a field of variable width may have: more than any frame."""
MAX_CELLS = 1 << 24
"""Counters, meters or registers that one array may have."""


@contextmanager
def _section(where: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ArtifactError(f"{where}: {error.args[0]!r} is missing or unknown") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ArtifactError(f"{where}: malformed ({error})") from error
    except RecursionError as error:
        raise ArtifactError(f"{where}: nested too deeply") from error


def _each(root: Json, key: str, read: Callable[[Any], Item]) -> list[Item]:
    with _section(key):
        items = list(root[key])
    result = []
    for number, item in enumerate(items):
        name = item.get("name", number) if isinstance(item, dict) else number
        with _section(f"{key} {name!r}"):
            result.append(read(item))
    return result


def read_program(text: str | bytes) -> Program:
    """The program in ``text``, the whole content of p4c's JSON output. Raises the two errors named above."""
    try:
        root = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not JSON: {error}; compile the program with p4c-bm2-ss") from error
    if not isinstance(root, dict) or "header_types" not in root or "pipelines" not in root:
        raise ArtifactError("not a compiled program: header_types or pipelines are missing; is this p4c's bmv2 JSON?")
    with _section("program"):
        return _read_root(root)


def _read_root(root: Json) -> Program:
    with _section("__meta__"):
        version = root.get("__meta__", {}).get("version", [FORMAT_MAJOR, 0])
        if version[0] != FORMAT_MAJOR:
            raise ArtifactError(f"JSON format {version[0]}.x is not understood, only {FORMAT_MAJOR}.x")
    _refuse(root)
    program = Program()
    _read_headers(root, program)
    program.aliases = dict(_each(root, "field_aliases", lambda a: (str(a[0]), read_field(a[1], program))))
    program.errors = dict(_each(root, "errors", lambda e: (str(e[0]), int(e[1]))))
    for array in _each(root, "counter_arrays", _read_array):
        program.counters[array.name] = array
    for array in _each(root, "meter_arrays", _read_array):
        program.meters[array.name] = array
    for array in _each(root, "register_arrays", _read_array):
        program.registers[array.name] = array
    for calculation in _each(root, "calculations", lambda c: _read_calculation(c, program)):
        program.calculations[calculation.name] = calculation
    for number, digest in _each(root, "learn_lists", lambda d: _read_digest(d, program)):
        program.digests[number] = digest
    for number, fields in _each(root, "field_lists", _field_list_reader(program)) if "field_lists" in root else ():
        program.field_lists[number] = fields
    for action in _each(root, "actions", lambda a: _read_action(a, program)):
        program.actions[action.id] = action
    for value_set in _each(root, "parse_vsets", _read_value_set) if root.get("parse_vsets") else ():
        program.value_sets[value_set.name] = value_set
    _read_parser(root, program)
    _read_deparser(root, program)
    program.checksums = tuple(_each(root, "checksums", lambda c: _read_checksum(c, program)))
    for control in _each(root, "pipelines", lambda p: read_control(p, program)):
        if control.name == "ingress":
            program.ingress = control
        elif control.name == "egress":
            program.egress = control
        else:
            raise UnsupportedConstructError(f"control {control.name!r}", "pipelines")
    return program


def _refuse(root: Json) -> None:
    for key, construct in (("extern_instances", "extern"),):
        for item in root.get(key) or ():
            name = item.get("name", "?") if isinstance(item, dict) else "?"
            raise UnsupportedConstructError(f"{construct} {name!r}", place_of(item, key))


def _read_headers(root: Json, program: Program) -> None:
    types: dict[str, tuple[FieldDef, ...]] = {}

    def read_type(item: Json) -> None:
        fields: list[FieldDef] = []
        for name, width, *rest in item["fields"]:
            if width == "*":
                if any(f.most for f in fields):
                    raise UnsupportedConstructError("two fields of variable width", f"header type {item['name']}")
                fixed = sum(int(f[1]) for f in item["fields"] if f[1] != "*")
                if not 0 <= int(item["max_length"]) <= MAX_VARIABLE_BYTES:
                    raise ValueError(f"at most {item['max_length']} bytes")
                fields.append(FieldDef(str(name), 0, False, int(item["max_length"]) * 8 - fixed))
                continue
            if rest[1:] and rest[1]:
                raise UnsupportedConstructError(f"saturating field {name!r}", f"header type {item['name']}")
            fields.append(FieldDef(str(name), read_width(width), bool(rest and rest[0])))
        types[item["name"]] = tuple(fields)

    def read_header(item: Json) -> None:
        name, kind, metadata = item["name"], item["header_type"], bool(item["metadata"])
        header = HeaderDef(name, kind, types[kind], metadata)
        if not metadata and header.width % 8:
            raise ValueError(f"{header.width} bits are not whole bytes")
        program.headers[name] = header

    _each(root, "header_types", read_type)
    _each(root, "headers", read_header)
    by_id = {item["id"]: item["name"] for item in root["headers"]}
    unions = root.get("header_unions") or []
    union_by_id = {item["id"]: item["name"] for item in unions}
    for item in unions:
        program.unions[item["name"]] = tuple(by_id[i] for i in item["header_ids"])
    for item in root.get("header_stacks") or ():
        program.stacks[item["name"]] = tuple(by_id[i] for i in item["header_ids"])
    for item in root.get("header_union_stacks") or ():
        program.stacks[item["name"]] = tuple(union_by_id[i] for i in item["header_union_ids"])
    if not all(program.stacks.values()):
        raise ArtifactError("header_stacks: a stack without elements")


def _read_array(item: Json) -> ArrayDef:
    size = int(item.get("size", 0))
    if size < 0:
        raise ValueError(f"size {size}")
    if size > MAX_CELLS:
        raise UnsupportedConstructError(f"array of {size} cells", place_of(item, item["name"]))
    target = item.get("result_target")
    if int(item.get("rate_count", 2)) != 2:
        raise UnsupportedConstructError(f"meter with {item['rate_count']} rates", place_of(item, item["name"]))
    return ArrayDef(
        name=item["name"],
        size=size,
        width=read_width(item["bitwidth"]) if "bitwidth" in item else 0,
        unit=str(item.get("type", "both")),
        table=item["binding"] if item.get("is_direct") else None,
        result=FieldRef(*target) if target else None,
    )


def _read_calculation(item: Json, program: Program) -> Calculation:
    inputs: list[FieldRef | Const | HeaderRef] = []
    payload = False
    for entry in item["input"]:
        kind = entry["type"]
        if kind == "field":
            inputs.append(read_field(entry["value"], program))
        elif kind == "hexstr":
            inputs.append(Const(int(entry["value"], 16), read_width(entry["bitwidth"])))
        elif kind == "header":
            program.headers[entry["value"]]
            inputs.append(HeaderRef(entry["value"]))
        elif kind == "payload":
            payload = True
        else:
            raise UnsupportedConstructError(f"hash input of type {kind!r}", place_of(item, item["name"]))
    return Calculation(item["name"], item["algo"], tuple(inputs), payload, place_of(item, item["name"]))


def _read_digest(item: Json, program: Program) -> tuple[int, DigestDef]:
    inputs: list[FieldRef | Const] = []
    for entry in item["elements"]:
        if entry["type"] == "field":
            inputs.append(read_field(entry["value"], program))
        elif entry["type"] == "hexstr":
            inputs.append(Const(int(entry["value"], 16)))
        else:
            raise UnsupportedConstructError(f"digest of type {entry['type']!r}", place_of(item, item["name"]))
    return int(item["id"]), DigestDef(item["name"], tuple(inputs))


def _field_list_reader(program: Program) -> Callable[[Json], tuple[int, tuple[FieldRef, ...]]]:
    def read(item: Json) -> tuple[int, tuple[FieldRef, ...]]:
        for element in item["elements"]:
            if element["type"] != "field":
                raise UnsupportedConstructError(f"field list with a {element['type']}", f"field list {item['name']}")
        return int(item["id"]), tuple(read_field(element["value"], program) for element in item["elements"])

    return read


def _read_action(item: Json, program: Program) -> Action:
    params = tuple((p["name"], read_width(p["bitwidth"])) for p in item["runtime_data"])
    primitives = tuple(read_primitive(p, program, f"action {item['name']}") for p in item["primitives"])
    return Action(int(item["id"]), item["name"], params, primitives)


def _read_parser(root: Json, program: Program) -> None:
    with _section("parsers"):
        parsers = [p for p in root["parsers"] if p["name"] == "parser"]
        if not parsers:
            return
        program.first_state = parsers[0]["init_state"]
    for state in _each(parsers[0], "parse_states", lambda s: _read_state(s, program)):
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
    """Values and masks are the key parts one after the other, each padded to whole bytes."""
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


def _read_deparser(root: Json, program: Program) -> None:
    for item in _each(root, "deparsers", lambda d: d):
        if item.get("name") != "deparser":
            continue
        with _section("deparser"):
            program.deparser_order = tuple(str(name) for name in item["order"])
            for name in program.deparser_order:
                program.headers[name]
            program.deparser_primitives = tuple(
                read_primitive(p, program, "deparser") for p in item.get("primitives", ())
            )


def _read_checksum(item: Json, program: Program) -> ChecksumDef:
    place = place_of(item, item["name"])
    if item["type"] != "generic":
        raise UnsupportedConstructError(f"checksum of type {item['type']!r}", place)
    program.calculations[item["calculation"]]
    condition = item.get("if_cond")
    return ChecksumDef(
        name=item["name"],
        target=read_field(item["target"], program),
        calculation=item["calculation"],
        verify=bool(item.get("verify", True)),
        update=bool(item.get("update", True)),
        condition=None if condition is None else expressions.read_expression(condition, program, place),
        place=place,
    )
