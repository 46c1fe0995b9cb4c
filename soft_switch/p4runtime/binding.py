"""Whether a P4Info and a bmv2 JSON describe the same program: the JSON must have what the P4Info declares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, cast

from soft_switch.p4runtime.digest_data import DigestShape
from soft_switch.p4runtime.p4info import ActionInfo, ProgramInfo, TableInfo, ValueSetInfo
from soft_switch.p4runtime.status import invalid
from soft_switch.pipeline import Pipeline
from soft_switch.tables.table import Table

MAX_PROBLEMS_SHOWN = 8
# bmv2 has no optional match: p4c writes such fields as ternary.
COMPILED_KINDS = {
    "exact": ("exact",),
    "lpm": ("lpm",),
    "ternary": ("ternary",),
    "range": ("range",),
    "optional": ("optional", "ternary"),
}


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


def check_belong_together(info: ProgramInfo, digests: Iterable[DigestShape], pipeline: Pipeline) -> None:
    """Check that the pipeline has everything that the P4Info declares.

    Raises:
        RequestError: INVALID_ARGUMENT listing what differs.
    """
    problems = [*_problems(info, pipeline), *_digest_problems(digests, pipeline)]
    if problems:
        shown = "; ".join(problems[:MAX_PROBLEMS_SHOWN])
        more = f"; and {len(problems) - MAX_PROBLEMS_SHOWN} more" if len(problems) > MAX_PROBLEMS_SHOWN else ""
        raise invalid(f"P4Info and device config are of different programs: {shown}{more}")


def _problems(info: ProgramInfo, pipeline: Pipeline) -> Iterator[str]:
    for action in info.actions:
        yield from _action_problems(action, pipeline)
    for table in info.tables:
        compiled = pipeline.tables.get(table.name)
        if compiled is None:
            yield f"the device config has no table {table.name}"
        else:
            yield from _table_problems(table, compiled)
    for profile in info.profiles:
        if profile.name not in pipeline.action_profiles:
            yield f"the device config has no action profile {profile.name}"
        elif pipeline.action_profiles[profile.name].with_selector != profile.with_selector:
            yield f"action profile {profile.name} has a selector in only one of the two"
    for value_set in info.value_sets:
        yield from _value_set_problems(value_set, pipeline)
    yield from _array_problems("counter", {item.name: item.size for item in info.counters}, pipeline.counters)
    yield from _array_problems("meter", {item.name: item.size for item in info.meters}, pipeline.meters)
    registers = {register.preamble.name: int(register.size) for register in info.message.registers}
    yield from _array_problems("register", registers, pipeline.registers)


def _value_set_problems(info: ValueSetInfo, pipeline: Pipeline) -> Iterator[str]:
    compiled = pipeline.value_sets.get(info.name)
    if compiled is None:
        yield f"the device config has no value set {info.name}"
        return
    widths = tuple(field.width for field in info.fields)
    if compiled.widths not in ((), widths):
        yield f"value set {info.name} has fields of {widths} bits in the P4Info, {compiled.widths} when compiled"


def _digest_problems(digests: Iterable[DigestShape], pipeline: Pipeline) -> Iterator[str]:
    for digest in digests:
        compiled = pipeline.digests.get(digest.name)
        if compiled is None:
            yield f"the device config has no digest {digest.name}"
        elif compiled != digest.count:
            yield f"digest {digest.name} has {digest.count} values in the P4Info, {compiled} when compiled"


def _action_problems(action: ActionInfo, pipeline: Pipeline) -> Iterator[str]:
    compiled = pipeline.actions.get(action.name)
    if compiled is None:
        yield f"the device config has no action {action.name}"
        return
    if len(compiled) != len(action.params):
        yield f"action {action.name} has {len(action.params)} parameters in the P4Info, {len(compiled)} when compiled"
        return
    for param, (_, width) in zip(action.params, compiled, strict=True):
        if param.width != width:
            yield f"parameter {param.name} of {action.name} has {param.width} bits in the P4Info, {width} when compiled"


def _table_problems(table: TableInfo, compiled: Table) -> Iterator[str]:
    if len(table.fields) != len(compiled.match_kinds):
        yield (
            f"table {table.name} has {len(table.fields)} match fields in the P4Info, "
            f"{len(compiled.match_kinds)} when compiled"
        )
        return
    for field, kind, width in zip(table.fields, compiled.match_kinds, compiled.key_widths, strict=True):
        if kind not in COMPILED_KINDS[field.kind]:
            yield f"match field {field.name} of {table.name} is {field.kind} in the P4Info, {kind} when compiled"
        if field.width != width:
            yield (
                f"match field {field.name} of {table.name} has {field.width} bits in the P4Info, {width} when compiled"
            )
    named = table.profile.name if table.profile is not None else None
    used = compiled.profile.name if compiled.profile is not None else None
    if named != used:
        yield f"table {table.name} uses action profile {named or 'none'} in the P4Info, {used or 'none'} when compiled"
    if table.counter is not None and not compiled.has_counter:
        yield f"table {table.name} has no direct counter when compiled"
    if table.meter is not None and compiled.meter_name != table.meter.name:
        yield (
            f"table {table.name} has direct meter {table.meter.name} in the P4Info, "
            f"{compiled.meter_name or 'none'} when compiled"
        )
    if table.idle_timeout and not compiled.ages:
        yield f"table {table.name} has an idle timeout only in the P4Info"
    if table.is_const != compiled.is_const:
        yield f"the entries of table {table.name} are constant in only one of the two"


def _array_problems(kind: str, promised: dict[str, int], compiled: Mapping[str, object]) -> Iterator[str]:
    for name, size in promised.items():
        if name not in compiled:
            yield f"the device config has no {kind} {name}"
            continue
        cells = cast(_Sized, compiled[name]).size
        if cells != size:
            yield f"{kind} {name} has {size} cells in the P4Info, {cells} when compiled"
