"""Checksums and the deparser: headers that no one writes leave as they came, the others are put together anew."""

from __future__ import annotations

from dataclasses import dataclass

from soft_switch.codegen.compiler import Compiler, Scope
from soft_switch.codegen.context import Context
from soft_switch.codegen.hashing import flat_inputs, memoised_hash
from soft_switch.codegen.ir import Assign, If, Names, Stmt
from soft_switch.codegen.primitives import emit_primitive
from soft_switch.codegen.values import Value, fit, varbit_width, variable
from soft_switch.errors import UnsupportedConstructError
from soft_switch.model.hashes import ALGORITHMS, VARYING, PackedHash
from soft_switch.model.program import VALID, ChecksumDef, Const, Expr, FieldRef, HeaderDef, HeaderRef, Op

PAYLOAD: Names = frozenset(("data", "off"))


def emit_verification(context: Context, scope: Scope) -> list[Stmt]:
    """Compares the checksums that the program verifies, and notes the outcome in checksum_error."""
    target = context.program.intrinsic("checksum_error")
    if target is None:
        return []
    error = context.name(target)
    touched = _written_by_parser(context)
    result: list[Stmt] = [Assign(error, "0")]
    scope.forget({error})
    for checksum in context.program.checksums:
        if not checksum.verify:
            continue
        valid = context.valid(checksum.target.header)
        compiler = Compiler(context, scope.copy(), checksum.place)
        compiler.assume(FieldRef(checksum.target.header, VALID), True)
        tests, reads = [valid], frozenset((valid,))
        if checksum.condition is not None:
            condition = compiler.truth(checksum.condition)
            if condition.known is not True:
                tests.append(condition.operand)
                reads |= condition.reads
            compiler.assume(checksum.condition, True)
        computed = _checksum(compiler, checksum, extracted=checksum.target.header not in touched)
        actual = compiler.field(checksum.target)
        reads |= computed.reads | actual.reads
        tests.append(f"{computed.operand} != {actual.operand}")
        result.append(If([(" and ".join(tests), reads, [Assign(error, "1")])]))
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


def _checksum(compiler: Compiler, checksum: ChecksumDef, *, extracted: bool) -> Value:
    """The value of a checksum. ``extracted``: no header has been changed since it was extracted."""
    context = compiler.context
    calculation = context.program.calculations[checksum.calculation]
    mask = internet_mask(context, checksum) if extracted else None
    if mask is not None:
        raw = context.raw(checksum.target.header)
        return _internet(context, Value(raw, 0, -1, frozenset((raw,)), atom=True), mask)
    inputs = flat_inputs(context, calculation)
    if not calculation.with_payload and calculation.algorithm != "csum16":
        return memoised_hash(compiler, calculation.algorithm, inputs, calculation.name, calculation.place)
    if calculation.algorithm not in ALGORITHMS:
        raise UnsupportedConstructError(f"hash algorithm {calculation.algorithm!r}", calculation.place)
    return _unmemoised(compiler, checksum)


def _unmemoised(compiler: Compiler, checksum: ChecksumDef) -> Value:
    """A call of a :class:`PackedHash`."""
    context = compiler.context
    calculation = context.program.calculations[checksum.calculation]
    function, widths = ALGORITHMS[calculation.algorithm], []
    arguments, reads = [], PAYLOAD if calculation.with_payload else frozenset()
    for item in flat_inputs(context, calculation):
        value = compiler.value(item)
        present = "1"
        if isinstance(item, Const):
            widths.append(item.width)
        else:
            definition = context.program.field_def(item)
            widths.append(VARYING if definition.most else definition.width)
            if not context.program.headers[item.header].is_metadata:
                valid = compiler.field(FieldRef(item.header, "$valid$"))
                present = valid.text
                reads |= valid.reads
        arguments.append(f"({present}, {value.text})")
        reads |= value.reads

    payload = "data[off:]" if calculation.with_payload else "b''"
    name = context.share(f"compute_{checksum.name}", PackedHash(function, widths))
    return Value(f"{name}({', '.join([payload, *arguments])})", 0, (1 << 64) - 1, reads, atom=True)


def internet_mask(context: Context, checksum: ChecksumDef) -> int | None:
    """The bits of the target's header that the checksum covers, if it is the Internet checksum of that header alone.

    16-bit words add up alike wherever they stand, so it is enough that every field keeps its place within the words.
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


def _internet(context: Context, number: Value, mask: int) -> Value:
    name = context.fresh("s")
    covered = number.text if number.high == mask else f"{number.operand} & {mask:#x}"
    text = f"-{name} % 65535 if ({name} := {covered}) else 65535"
    return Value(text, 0, 0xFFFF, number.reads)


@dataclass(slots=True)
class _Piece:
    header: HeaderDef
    updates: list[ChecksumDef]


def emit_deparser(context: Context, scope: Scope) -> tuple[list[Stmt], str, Names]:
    """Updates checksums; then the bytes of all valid headers and the payload, as Python, and what that reads."""
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
            result += body
        else:
            condition = Compiler(context, scope.copy(), checksum.place).truth(checksum.condition)
            result.append(If([(condition.text, condition.reads, body)]))
            scope.forget({context.name(checksum.target)})
    parts, reads = [], set(PAYLOAD)
    for piece in pieces.values():
        name = context.fresh("out")
        valid = context.valid(piece.header.name)
        body = _emit(context, scope.copy(), piece, name)
        result.append(If([(valid, frozenset((valid,)), body)], [Assign(name, "b''")]))
        parts.append(name)
        reads.add(name)
    return result, " + ".join([*parts, "data[off:]"]), frozenset(reads)


def _stands_alone(context: Context, checksum: ChecksumDef, updates: list[ChecksumDef]) -> bool:
    """Whether a checksum of one header may be computed while that header is put together, after all others."""
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
    header = piece.header
    size = header.width // 8
    if not context.is_rewritten(header.name):
        wire = context.wire(header.name)
        return [Assign(out, wire, frozenset((wire,)))]
    if header.varbit is not None:
        return _emit_varbit(context, header, header.varbit.name, out)
    scope.forget({context.valid(header.name)})
    scope.learn(context.valid(header.name), Value("1", 1, 1, atom=True))
    compiler = Compiler(context, scope, f"header {header.name}")
    result: list[Stmt] = []
    number = _number(compiler, header, {c.target.name for c in piece.updates})
    for checksum in piece.updates:
        base = context.fresh("h")
        result.append(Assign(base, number.text, number.reads))
        mask = internet_mask(context, checksum) or 0
        covered = Value(base, 0, number.high, frozenset((base,)), atom=True)
        name = context.name(checksum.target)
        body = compiler.assign(checksum.target, _internet(context, covered, mask))
        if checksum.condition is not None:
            condition = compiler.truth(checksum.condition)
            if condition.known is not True:
                body = [If([(condition.text, condition.reads, body)])]
                compiler.overwritten(name)
        result += body
        shift = header.shift(checksum.target.name)
        number = Value(f"{base} | {name} << {shift}", 0, 0, frozenset((base, name)))
    result.append(Assign(out, f"({number.text}).to_bytes({size}, 'big')", number.reads))
    return result


def _emit_varbit(context: Context, header: HeaderDef, varying: str, out: str) -> list[Stmt]:
    bits, number = context.fresh("bits"), context.name(FieldRef(header.name, varying))
    shift, before, terms = header.width, True, []
    reads: Names = frozenset((bits,))
    for f in header.fields:
        shift -= f.width
        name = context.name(FieldRef(header.name, f.name))
        reads |= {name}
        if f.most:
            before = False
            terms.append(f"(({number} or 1) ^ 1 << {bits}) << {shift}")
        else:
            value = fit(variable(name, f.width, f.signed), f.width, False)
            terms.append(f"{value.operand} << {shift}" + (f" + {bits}" if before else ""))
    text = f"({' | '.join(terms)}).to_bytes({header.width // 8} + ({bits} >> 3), 'big')"
    return [Assign(bits, varbit_width(number), frozenset((number,))), Assign(out, text, reads)]


def _number(compiler: Compiler, header: HeaderDef, without: set[str]) -> Value:
    """The header as one number, less the fields in ``without``. ``high`` has a bit wherever there may be one."""
    context = compiler.context
    written = context.written_fields(header.name)
    keep, terms, covered = 0, [], 0
    reads: Names = frozenset()
    for f in header.fields:
        shift, ones = header.shift(f.name), (1 << f.width) - 1
        if f.name in without:
            continue
        covered |= ones << shift
        if f.name not in written:
            keep |= ones << shift
            continue
        value = fit(compiler.field(FieldRef(header.name, f.name)), f.width, False)
        reads |= value.reads
        terms.append(f"{value.operand} << {shift}" if shift else value.operand)
    if keep:
        raw = context.raw(header.name)
        reads |= {raw}
        everything = (1 << header.width) - 1
        terms.insert(0, raw if keep == everything else f"{raw} & {keep:#x}")
    return Value(" | ".join(terms) or "0", 0, covered, reads)
