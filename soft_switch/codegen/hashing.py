"""Hashes over fields: of the ``hash`` extern, of action selectors and of checksums."""

from __future__ import annotations

from collections.abc import Sequence

from soft_switch.codegen.compiler import Compiler
from soft_switch.codegen.context import Context
from soft_switch.codegen.values import Value
from soft_switch.errors import UnsupportedConstructError
from soft_switch.model.hashes import ALGORITHMS, VARYING, HashMemo
from soft_switch.model.program import Calculation, Const, FieldRef, HeaderRef

BITS = {"crc32": 32, "crc32_custom": 32, "identity": 64}
"""Width of an algorithm's values; 16 where it is not said."""
Input = FieldRef | Const


def flat_inputs(context: Context, calculation: Calculation) -> list[Input]:
    """The inputs with whole headers replaced by their fields."""
    result: list[Input] = []
    for item in calculation.inputs:
        if isinstance(item, HeaderRef):
            result += context.fields_of(context.program.headers[item.name])
        else:
            result.append(item)
    return result


def hash_value(compiler: Compiler, calculation: Calculation) -> Value:
    """The hash as an expression."""
    if calculation.with_payload:
        raise UnsupportedConstructError("hash over the payload", calculation.place)
    inputs = flat_inputs(compiler.context, calculation)
    return memoised_hash(compiler, calculation.algorithm, inputs, calculation.name, calculation.place)


def memoised_hash(compiler: Compiler, algorithm: str, inputs: Sequence[Input], name: str, place: str) -> Value:
    """A hash over ``inputs``, looked up by their values in a :class:`HashMemo`."""
    context = compiler.context
    if algorithm == "random":
        draw = context.share("randint", context.externs["randint"])
        return Value(f"{draw}(0, 0xFFFFFFFF)", 0, 0xFFFFFFFF, atom=True)
    if algorithm not in ALGORITHMS:
        raise UnsupportedConstructError(f"hash algorithm {algorithm!r}", place)
    headers: list[str] = []
    fields: list[tuple[int, int]] = []
    values: list[Value] = []
    for item in inputs:
        if isinstance(item, Const):
            fields.append((-1, item.width))
            values.append(compiler.value(item))
            continue
        header = context.program.headers[item.header]
        position = -1
        if not header.is_metadata:
            if header.name not in headers:
                headers.append(header.name)
            position = headers.index(header.name)
        definition = context.program.field_def(item)
        fields.append((position, VARYING if definition.most else definition.width))
        values.append(compiler.field(item))
    valid = [compiler.field(FieldRef(h, "$valid$")) for h in headers]
    memo = HashMemo(ALGORITHMS[algorithm], len(headers), fields)
    key = ", ".join(v.text for v in (*valid, *values))
    if len(valid) + len(values) == 1:
        key += ","
    reads = frozenset().union(*(v.reads for v in (*valid, *values)))
    high = (1 << BITS.get(algorithm, 16)) - 1
    return Value(f"{context.share(f'hash_{name}', memo)}[{key or '()'}]", 0, high, reads, atom=True)
