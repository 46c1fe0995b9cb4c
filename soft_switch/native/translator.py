"""The generated Python of a pipeline as C: the same statements, with types."""

from __future__ import annotations

import ast
import struct
from array import array
from collections.abc import Mapping
from typing import Any

from soft_switch.codegen.functions import Generated
from soft_switch.model.cells import WideCells
from soft_switch.model.externs import DirectMeter, MeterArray
from soft_switch.model.hashes import HashMemo, PackedHash
from soft_switch.native.errors import CannotTranslateError
from soft_switch.native.module import Module, Translated
from soft_switch.native.statements import Function
from soft_switch.tables.table import Results

_REMEMBERED: dict[tuple[object, ...], Translated] = {}
"""A process often loads one program many times."""
_MOST_REMEMBERED = 64
_ORDER = ("parse_again", "ingress", "egress")


def translate(generated: Generated, externs: Mapping[str, Any]) -> Translated:
    """The C of a program. ``externs``: what the generated Python calls, by name.

    Raises:
        CannotTranslateError: something in it has no translation.
    """
    key = (generated.source, *((name, _shape(thing)) for name, thing in generated.objects.items()))
    known = _REMEMBERED.get(key)
    if known is None:
        try:
            known = _translated(Module(generated, externs))
        except RecursionError as error:
            raise CannotTranslateError("expressions that are nested too deeply") from error
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Code of a form that nothing here expects: Python can still run it.
            raise CannotTranslateError(f"code of an unforeseen form ({type(error).__name__}: {error})") from error
        if len(_REMEMBERED) >= _MOST_REMEMBERED:
            _REMEMBERED.clear()
        _REMEMBERED[key] = known
    return known


def _shape(thing: object) -> object:
    """What of an object of the generated code the translation depends on."""
    if isinstance(thing, array | WideCells):
        return len(thing), thing.words if isinstance(thing, WideCells) else 0
    if isinstance(thing, Results):
        return thing.table.key_widths, tuple(thing.table.actions.items())
    if isinstance(thing, HashMemo):
        return thing.function.__name__, thing.headers, thing.fields
    if isinstance(thing, PackedHash):
        return thing.function.__name__, thing.widths
    owner = getattr(thing, "__self__", None)
    if isinstance(owner, struct.Struct):
        return owner.format
    if isinstance(owner, MeterArray):
        return owner.size, owner.unit
    return owner.unit if isinstance(owner, DirectMeter) else None


def _translated(module: Module) -> Translated:
    """All functions, again and again until nothing new is learned of their variables."""
    result = module.result
    functions = {f.name: f for f in ast.parse(module.generated.source).body if isinstance(f, ast.FunctionDef)}
    lines: list[str] = []
    while module.changed or not module.settling:
        module.changed = False
        result.requests.clear()
        result.header_bytes = 0
        lines = []
        for name in _ORDER:
            if name in functions:
                lines += Function(module, functions[name]).translate()
        module.settling += 1
    body, state = "\n".join(lines), module.state()
    wide = [f"WIDE({n})" for n in range(3, 81) if f"w{n}" in body or f"w{n}" in state]
    result.source = "\n".join([*wide, "", f"#define HEADER_BYTES {result.header_bytes}", "", state, "", body, ""])
    result.rid_bytes = module.place("rid", module.generated.rid_at)
    result.priority_bytes = module.place("priority", module.generated.priority_at)
    result.source += "u64 pipeline_state_bytes(void) { return sizeof(struct carried); }\n"
    return result
