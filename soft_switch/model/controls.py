"""Reads the control blocks of the bmv2 JSON: tables, conditionals, action profiles, and the flow between them."""

from __future__ import annotations

from soft_switch.errors import ArtifactError, UnsupportedConstructError
from soft_switch.model.expressions import Json, place_of, read_expression, read_field
from soft_switch.model.program import (
    VALID,
    ConditionalDef,
    ConstEntry,
    ControlDef,
    FieldRef,
    KeyField,
    ProfileDef,
    Program,
    TableDef,
)

MATCH_KINDS = ("exact", "lpm", "ternary", "range", "valid")


def read_control(item: Json, program: Program) -> ControlDef:
    """Read a control block (a ``pipeline`` of the JSON)."""
    if item.get("action_calls"):
        raise UnsupportedConstructError("direct action call", f"control {item['name']}")
    profiles = {p["name"]: _read_profile(p, program) for p in item.get("action_profiles", ())}
    nodes: dict[str, TableDef | ConditionalDef] = {}
    for cfg in item["tables"]:
        try:
            nodes[cfg["name"]] = _read_table(cfg, program)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            name = cfg.get("name") if isinstance(cfg, dict) else cfg
            raise ArtifactError(f"table {name!r}: malformed ({type(error).__name__}: {error})") from error
    for cfg in item["conditionals"]:
        place = place_of(cfg, f"control {item['name']}")
        condition = read_expression(cfg["expression"], program, place)
        nodes[cfg["name"]] = ConditionalDef(cfg["name"], condition, cfg.get("true_next"), cfg.get("false_next"), place)
    control = ControlDef(item["name"], item["init_table"], nodes, profiles)
    _check_names(control)
    return control


def successors(node: TableDef | ConditionalDef) -> list[str | None]:
    """Return all nodes to which control can go after ``node``; None is the end."""
    if isinstance(node, ConditionalDef):
        return [node.true_next, node.false_next]
    if node.hit_miss is not None:
        return list(node.hit_miss)
    return [*node.next_by_action.values(), node.next_default]


def _check_names(control: ControlDef) -> None:
    for node in control.nodes.values():
        for name in successors(node):
            if name is not None and name not in control.nodes:
                raise ArtifactError(f"{control.name}: {node.name!r} is followed by unknown {name!r}")
        if isinstance(node, TableDef) and node.profile is not None and node.profile not in control.profiles:
            raise ArtifactError(f"table {node.name!r} uses unknown action profile {node.profile!r}")
    if control.first is not None and control.first not in control.nodes:
        raise ArtifactError(f"{control.name}: starts at unknown {control.first!r}")


def _read_profile(item: Json, program: Program) -> ProfileDef:
    selector = item.get("selector")
    place = place_of(item, f"action profile {item['name']}")
    inputs = []
    for entry in selector["input"] if selector else ():
        if entry["type"] != "field":
            raise UnsupportedConstructError(f"selector key of type {entry['type']!r}", place)
        inputs.append(read_field(entry["value"], program))
    return ProfileDef(item["name"], int(item["max_size"]), selector["algo"] if selector else None, tuple(inputs), place)


def _read_table(item: Json, program: Program) -> TableDef:
    place = place_of(item, f"table {item['name']}")
    if item["type"] not in ("simple", "indirect", "indirect_ws"):
        raise UnsupportedConstructError(f"table of type {item['type']!r}", place)
    keys = tuple(_read_key(k, program, place) for k in item["key"])
    action_ids = tuple(int(a) for a in item["action_ids"])
    for action_id in action_ids:
        program.actions[action_id]
    next_tables = item["next_tables"]
    hit_miss = None
    next_by_action: dict[int, str | None] = {}
    if "__HIT__" in next_tables or "__MISS__" in next_tables:
        hit_miss = (next_tables.get("__HIT__"), next_tables.get("__MISS__"))
    else:
        next_by_action = {a: next_tables[program.actions[a].name] for a in action_ids}
    default = item.get("default_entry")
    entries = item.get("entries")
    return TableDef(
        name=item["name"],
        kind=item["type"],
        keys=keys,
        size=int(item["max_size"]),
        has_counter=bool(item["with_counters"]),
        ages=bool(item.get("support_timeout")),
        meter=item.get("direct_meters"),
        profile=item.get("action_profile"),
        action_ids=action_ids,
        default=None if default is None else _read_call(default, program),
        default_is_const=default is not None and bool(default.get("action_entry_const", False)),
        entries=None if entries is None else tuple(_read_entry(e, keys, program) for e in entries),
        next_by_action=next_by_action,
        next_default=item.get("base_default_next"),
        hit_miss=hit_miss,
        place=place,
    )


def _read_key(item: Json, program: Program, place: str) -> KeyField:
    kind = item["match_type"]
    if kind not in MATCH_KINDS:
        raise UnsupportedConstructError(f"match kind {kind!r}", place)
    if kind == "valid":
        header = item["target"] if isinstance(item["target"], str) else item["target"][0]
        target, kind = FieldRef(header, VALID), "exact"
        program.headers[header]
    else:
        target = read_field(item["target"], program)
    mask = item.get("mask")
    return KeyField(
        kind,
        str(item.get("name", f"{target.header}.{target.name}")),
        target,
        program.field_def(target).width,
        None if mask is None else int(mask, 16),
    )


def _read_call(item: Json, program: Program) -> tuple[int, tuple[int, ...]]:
    action = program.actions[int(item["action_id"])]
    args = tuple(int(value, 16) for value in item.get("action_data", ()))
    if len(args) != len(action.params):
        raise ValueError(f"{len(args)} arguments for action {action.name}, which has {len(action.params)}")
    return action.id, tuple(a & ((1 << w) - 1) for a, (_, w) in zip(args, action.params, strict=True))


def _read_entry(item: Json, keys: tuple[KeyField, ...], program: Program) -> ConstEntry:
    match: list[tuple[int, ...]] = []
    for part, key in zip(item["match_key"], keys, strict=True):
        kind = part["match_type"]
        if kind == "exact":
            match.append((int(part["key"], 16),))
        elif kind == "valid":
            match.append((int(bool(part["key"])),))
        elif kind == "lpm":
            match.append((int(part["key"], 16), int(part["prefix_length"])))
        elif kind == "ternary":
            match.append((int(part["key"], 16), int(part["mask"], 16)))
        elif kind == "range":
            match.append((int(part["start"], 16), int(part["end"], 16)))
        else:
            raise ValueError(f"match kind {kind!r} for key {key.name}")
    action_id, args = _read_call(item["action_entry"], program)
    return ConstEntry(tuple(match), int(item.get("priority", 0)), action_id, args)
