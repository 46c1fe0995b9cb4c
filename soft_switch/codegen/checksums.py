"""Compiles checksums and the deparser. Headers that are never written leave unchanged; others are composed."""

from __future__ import annotations

from dataclasses import dataclass

from soft_switch.codegen.compiler import Compiler, Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.hashing import flat_inputs, memoised_hash, unmemoised_hash
from soft_switch.codegen.header_primitives import varbit_width
from soft_switch.codegen.primitives import emit_primitive
from soft_switch.ir import arithmetic as ar
from soft_switch.ir import expressions as ex
from soft_switch.ir.statements import Assign, SetBytes, Stmt, when
from soft_switch.model.program import VALID, ChecksumDef, Const, Expr, FieldRef, HeaderDef, HeaderRef, Op


def emit_verification(context: Context, scope: Scope) -> list[Stmt]:
    """Compare the checksums that the program verifies, and note the outcome in checksum_error."""
    error = context.intrinsic("checksum_error")
    if error is None:
        return []
    touched = _written_by_parser(context)
    result: list[Stmt] = [Assign(error.name, ar.constant(0))]
    scope.forget((error.name,))
    for checksum in context.program.checksums:
        if not checksum.verify:
            continue
        applies = ar.not_zero(context.valid(checksum.target.header))
        compiler = Compiler(context, scope.copy(), checksum.place)
        compiler.assume(FieldRef(checksum.target.header, VALID), True)
        if checksum.condition is not None:
            applies = ar.both(applies, compiler.truth(checksum.condition))
            compiler.assume(checksum.condition, True)
        computed = _checksum(compiler, checksum, extracted=checksum.target.header not in touched)
        differs = ar.compare("!=", computed, compiler.field(checksum.target))
        result.append(when(ar.both(applies, differs), [Assign(error.name, ar.constant(1))]))
    return result


def _written_by_parser(context: Context) -> set[str]:
    touched = set()
    for state in context.program.states.values():
        for op in state.ops:
            target = op.args[0] if op.kind == "set" else op.primitive.args[0] if op.primitive else None
            if isinstance(target, FieldRef):
                touched.add(target.header)
            elif isinstance(target, HeaderRef) and op.kind != "extract":
                touched.add(target.name)
    return touched


def _checksum(compiler: Compiler, checksum: ChecksumDef, *, extracted: bool) -> ex.Number:
    """Return the value of a checksum. ``extracted``: no header has been changed since it was extracted."""
    context = compiler.context
    calculation = context.program.calculations[checksum.calculation]
    mask = internet_mask(context, checksum) if extracted else None
    if mask is not None:
        return _internet(context, ar.masked(context.raw(checksum.target.header), mask))
    if calculation.with_payload or calculation.algorithm == "csum16":
        return unmemoised_hash(compiler, calculation, checksum.name)
    inputs = flat_inputs(context, calculation)
    return memoised_hash(compiler, calculation.algorithm, inputs, calculation.name, calculation.place)


def internet_mask(context: Context, checksum: ChecksumDef) -> int | None:
    """Return the bits of the target's header that the checksum covers if it is that header's Internet checksum.

    The order of 16-bit words does not matter to it, so every field only has to keep its place within a word.
    """
    calculation = context.program.calculations[checksum.calculation]
    if calculation.algorithm != "csum16" or calculation.with_payload:
        return None
    header = context.program.headers[checksum.target.header]
    inputs = flat_inputs(context, calculation)
    total = sum(i.width if isinstance(i, Const) else context.program.field_def(i).width for i in inputs)
    position = total + -total % 16
    mask = 0
    for item in inputs:
        if isinstance(item, Const) or item.header != header.name or item.name == checksum.target.name:
            return None
        width = context.program.field_def(item).width
        position -= width
        if header.varbit is not None:
            return None
        shift = header.shift(item.name)
        bits = ((1 << width) - 1) << shift
        if (shift - position) % 16 or mask & bits:
            return None
        mask |= bits
    return mask


def _internet(context: Context, covered: ex.Number) -> ex.Number:
    return ar.internet_checksum(covered, context.fresh("s", (covered.low, covered.high)).name)


@dataclass(slots=True)
class _Piece:
    header: HeaderDef
    updates: list[ChecksumDef]


def emit_deparser(context: Context, scope: Scope, limit: ex.Var | None) -> tuple[list[Stmt], ex.Frame]:
    """Update checksums and compose the headers; return the statements and the frame of headers and payload."""
    program = context.program
    updates = [c for c in program.checksums if c.update]
    pieces = {name: _Piece(program.headers[name], []) for name in program.deparser_order}
    result: list[Stmt] = []
    for primitive in program.deparser_primitives:
        result += emit_primitive(Compiler(context, scope, primitive.place), primitive)
    for checksum in updates:
        if checksum.target.header in pieces and _stands_alone(context, checksum, updates):
            pieces[checksum.target.header].updates.append(checksum)
            continue
        compiler = Compiler(context, scope, checksum.place)
        body = compiler.assign(checksum.target, _checksum(compiler, checksum, extracted=False))
        if checksum.condition is None:
            result.append(body)
        else:
            condition = Compiler(context, scope.copy(), checksum.place).truth(checksum.condition)
            result.append(when(condition, [body]))
            scope.forget((context.name(checksum.target),))
    outs = []
    for piece in pieces.values():
        header = piece.header
        most = header.width + (header.varbit.most if header.varbit else 0)
        out = context.fresh_octets("out", -(-most // 8))
        valid = ar.not_zero(context.valid(header.name))
        result.append(when(valid, _emit(context, scope.copy(), piece, out), [SetBytes(out, ex.NoBytes())]))
        outs.append(ex.BytesVar(out))
    return result, ex.Frame(tuple(outs), limit)


def _stands_alone(context: Context, checksum: ChecksumDef, updates: list[ChecksumDef]) -> bool:
    """Return whether a checksum may be computed while its header is composed, after all others."""
    if internet_mask(context, checksum) is None:
        return False
    reads = _reads(context, checksum)
    return all(
        other is checksum
        or not (
            other.target.header == checksum.target.header
            or other.target in reads
            or checksum.target in _reads(context, other)
        )
        for other in updates
    )


def _reads(context: Context, checksum: ChecksumDef) -> set[FieldRef]:
    inputs = flat_inputs(context, context.program.calculations[checksum.calculation])
    return {i for i in inputs if isinstance(i, FieldRef)} | _fields_of(checksum.condition)


def _fields_of(expr: Expr | None) -> set[FieldRef]:
    if isinstance(expr, Op):
        return _fields_of(expr.left) | _fields_of(expr.right) | _fields_of(expr.cond)
    return {expr} if isinstance(expr, FieldRef) else set()


def _emit(context: Context, scope: Scope, piece: _Piece, out: str) -> list[Stmt]:
    """Compose a valid header in the variable ``out``."""
    header = piece.header
    if not context.is_rewritten(header.name):
        return [SetBytes(out, ex.BytesVar(context.wire(header.name)))]
    if header.varbit is not None:
        return _emit_varbit(context, header, header.varbit.name, out)
    scope.learn(context.valid(header.name).name, ar.constant(1))
    compiler = Compiler(context, scope, f"header {header.name}")
    result: list[Stmt] = []
    parts = _parts(compiler, header, {c.target.name for c in piece.updates})
    present = ((1 << header.width) - 1) ^ sum(_bits(header, c.target.name) for c in piece.updates)
    for checksum in piece.updates:
        held, base = context.hold("h", ar.bits_joined(parts))
        result.append(held)
        mask = internet_mask(context, checksum) or 0
        covered = base if mask == present else ar.masked(base, mask)
        present |= _bits(header, checksum.target.name)
        body: Stmt = compiler.assign(checksum.target, _internet(context, covered))
        if checksum.condition is not None:
            body = when(compiler.truth(checksum.condition), [body])
            scope.forget((context.name(checksum.target),))
        result.append(body)
        parts = [base, ar.placed(context.variable(checksum.target), ar.constant(header.shift(checksum.target.name)))]
    result.append(SetBytes(out, ex.ToBytes(ar.bits_joined(parts), ar.constant(header.width // 8))))
    return result


def _bits(header: HeaderDef, name: str) -> int:
    width = next(f.width for f in header.fields if f.name == name)
    return ((1 << width) - 1) << header.shift(name)


def _emit_varbit(context: Context, header: HeaderDef, varying: str, out: str) -> list[Stmt]:
    value = context.variable(FieldRef(header.name, varying))
    held, bits = context.hold("bits", varbit_width(value))
    shift, before, parts = header.width, True, []
    for f in header.fields:
        shift -= f.width
        if f.most:
            before = False
            bare = ar.bitwise_xor(ar.choice(ar.not_zero(value), value, ar.constant(1)), ar.placed(ar.constant(1), bits))
            parts.append(ar.placed(bare, ar.constant(shift)))
        else:
            count = ar.add(bits, ar.constant(shift)) if before else ar.constant(shift)
            parts.append(ar.placed(ar.fit(context.variable(FieldRef(header.name, f.name)), f.width, False), count))
    length = ar.add(ar.shift_right(bits, ar.constant(3)), ar.constant(header.width // 8))
    return [held, SetBytes(out, ex.ToBytes(ar.bits_joined(parts), length))]


def _parts(compiler: Compiler, header: HeaderDef, without: set[str]) -> list[ex.Number]:
    """Return the fields, except for those in ``without``, at their places in the header as one number."""
    context = compiler.context
    written = context.written_fields(header.name)
    keep, parts = 0, list[ex.Number]()
    for f in header.fields:
        if f.name in without:
            continue
        shift = header.shift(f.name)
        if f.name not in written:
            keep |= ((1 << f.width) - 1) << shift
            continue
        value = ar.fit(compiler.field(FieldRef(header.name, f.name)), f.width, False)
        parts.append(ar.placed(value, ar.constant(shift)))
    return [ar.masked(context.raw(header.name), keep), *parts] if keep else parts
