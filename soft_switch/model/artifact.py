"""Reads the JSON that p4c's bmv2 backend writes (format 2.x) into a :class:`~soft_switch.model.program.Program`.

Input that does not have the expected form raises an :class:`ArtifactError` that names the place; constructs that the
switch does not run raise an :class:`UnsupportedConstructError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from soft_switch.errors import ArtifactError, UnsupportedConstructError
from soft_switch.model.controls import read_control
from soft_switch.model.expressions import (
    Json,
    place_of,
    read_expression,
    read_field,
    read_primitive,
    read_width,
)
from soft_switch.model.parsers import read_deparser, read_parser
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
    Program,
)
from soft_switch.model.sections import read_each, section

FORMAT_MAJOR = 2
"""Major version of the JSON format that is read."""
MAX_VARIABLE_BYTES = 1 << 14
"""Most bytes of a header with a field of variable width: more than any frame has."""
MAX_CELLS = 1 << 24
"""Most counters, meters or registers of one array."""


def read_program(text: str | bytes) -> Program:
    """Read the program in ``text``, the complete JSON output of p4c.

    Raises:
        ArtifactError: the text is not such a program; the message says where.
        UnsupportedConstructError: the program uses a construct that this switch does not run.
    """
    try:
        root = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not JSON: {error}; compile the program with p4c-bm2-ss") from error
    if not isinstance(root, dict) or "header_types" not in root or "pipelines" not in root:
        raise ArtifactError("not a compiled program: header_types or pipelines are missing; is this p4c's bmv2 JSON?")
    with section("program"):
        return _read_root(root)


def _read_root(root: Json) -> Program:
    with section("__meta__"):
        version = root.get("__meta__", {}).get("version", [FORMAT_MAJOR, 0])
        if version[0] != FORMAT_MAJOR:
            raise ArtifactError(
                f"JSON format {version[0]}.x is not supported, only {FORMAT_MAJOR}.x; use a current p4c"
            )
    _refuse(root)
    program = Program()
    _read_headers(root, program)
    program.aliases = dict(read_each(root, "field_aliases", lambda a: (str(a[0]), read_field(a[1], program))))
    program.errors = dict(read_each(root, "errors", lambda e: (str(e[0]), int(e[1]))))
    for array in read_each(root, "counter_arrays", _read_array):
        program.counters[array.name] = array
    for array in read_each(root, "meter_arrays", _read_array):
        program.meters[array.name] = array
    for array in read_each(root, "register_arrays", _read_array):
        program.registers[array.name] = array
    for calculation in read_each(root, "calculations", lambda c: _read_calculation(c, program)):
        program.calculations[calculation.name] = calculation
    for number, digest in read_each(root, "learn_lists", lambda d: _read_digest(d, program)):
        program.digests[number] = digest
    for number, fields in read_each(root, "field_lists", _field_list_reader(program)) if "field_lists" in root else ():
        program.field_lists[number] = fields
    for action in read_each(root, "actions", lambda a: _read_action(a, program)):
        program.actions[action.id] = action
    read_parser(root, program)
    read_deparser(root, program)
    program.checksums = tuple(read_each(root, "checksums", lambda c: _read_checksum(c, program)))
    for control in read_each(root, "pipelines", lambda p: read_control(p, program)):
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

    read_each(root, "header_types", read_type)
    read_each(root, "headers", read_header)
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
        raise ArtifactError("header_stacks: a stack has no elements")


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
        condition=None if condition is None else read_expression(condition, program, place),
        place=place,
    )
