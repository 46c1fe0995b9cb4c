"""Hashes over fields: of the ``hash`` extern, of action selectors and of checksums."""

from __future__ import annotations

from collections.abc import Sequence

from soft_switch.codegen.compiler import Compiler
from soft_switch.codegen.context import Context
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir import expressions as ex
from soft_switch.ir.arithmetic import constant, limits
from soft_switch.model.hashes import ALGORITHMS, VARYING, HashMemo, PackedHash
from soft_switch.model.program import VALID, Calculation, Const, FieldRef, HeaderRef

BITS = {"crc32": 32, "crc32_custom": 32, "identity": 64}
"""Width of the values of an algorithm; 16 for those that are not here."""
Input = FieldRef | Const


def flat_inputs(context: Context, calculation: Calculation) -> list[Input]:
    """Return the inputs with whole headers replaced by their fields."""
    result: list[Input] = []
    for item in calculation.inputs:
        if isinstance(item, HeaderRef):
            result += context.fields_of(context.program.headers[item.name])
        else:
            result.append(item)
    return result


def hash_value(compiler: Compiler, calculation: Calculation) -> ex.Number:
    """Return the hash as an expression."""
    if calculation.with_payload:
        raise UnsupportedConstructError("hash over the payload", calculation.place)
    inputs = flat_inputs(compiler.context, calculation)
    return memoised_hash(compiler, calculation.algorithm, inputs, calculation.name, calculation.place)


def _check_algorithm(algorithm: str, place: str) -> None:
    if algorithm not in ALGORITHMS:
        raise UnsupportedConstructError(f"hash algorithm {algorithm!r}", place)


def _width(context: Context, item: Input) -> int:
    if isinstance(item, Const):
        return item.width
    definition = context.program.field_def(item)
    return VARYING if definition.most else definition.width


def memoised_hash(compiler: Compiler, algorithm: str, inputs: Sequence[Input], name: str, place: str) -> ex.Number:
    """Return a hash over ``inputs``, looked up by their values in a :class:`HashMemo`."""
    context = compiler.context
    if algorithm == "random":
        return ex.Random(0, 0xFFFFFFFF, context.share_extern("randint"), constant(0), constant(0xFFFFFFFF))
    _check_algorithm(algorithm, place)
    headers: list[str] = []
    fields: list[tuple[int, int]] = []
    for item in inputs:
        position = -1
        if isinstance(item, FieldRef) and not context.program.headers[item.header].is_metadata:
            if item.header not in headers:
                headers.append(item.header)
            position = headers.index(item.header)
        fields.append((position, _width(context, item)))
    valid = [compiler.field(FieldRef(header, VALID)) for header in headers]
    memo = HashMemo(ALGORITHMS[algorithm], len(headers), fields)
    key = (*valid, *(compiler.value(item) for item in inputs))
    return ex.MemoHash(*limits(BITS.get(algorithm, 16), False), context.share(f"hash_{name}", memo), memo, key)


def unmemoised_hash(compiler: Compiler, calculation: Calculation, name: str) -> ex.Number:
    """Return a hash whose values seldom repeat, or that covers the payload."""
    _check_algorithm(calculation.algorithm, calculation.place)
    context, fields = compiler.context, list[tuple[ex.Number, ex.Number]]()
    inputs = flat_inputs(context, calculation)
    for item in inputs:
        present: ex.Number = constant(1)
        if isinstance(item, FieldRef) and not context.program.headers[item.header].is_metadata:
            present = compiler.field(FieldRef(item.header, VALID))
        fields.append((present, compiler.value(item)))
    function = PackedHash(ALGORITHMS[calculation.algorithm], [_width(context, item) for item in inputs])
    return ex.FieldsHash(
        *limits(BITS.get(calculation.algorithm, 16), False),
        context.share(f"compute_{name}", function),
        function,
        tuple(fields),
        ex.Frame((), None) if calculation.with_payload else ex.NoBytes(),
    )
