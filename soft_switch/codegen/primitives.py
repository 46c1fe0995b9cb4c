"""Actions: their primitives, one after the other, as statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from soft_switch.codegen import operators
from soft_switch.codegen.compiler import Compiler, Scope
from soft_switch.codegen.context import DROP_PORT, Context, header_name
from soft_switch.codegen.copies import (
    CLONE,
    CLONE_LIST,
    PACKET_LENGTH,
    RECIRCULATE,
    RESUBMIT,
    TRUNCATE,
    session_note,
)
from soft_switch.codegen.graph import CycleError, post_dominators
from soft_switch.codegen.hashing import hash_value
from soft_switch.codegen.ir import Assign, Break, Effect, If, Loop, Stmt, written
from soft_switch.codegen.values import Value, constant, fit, limits, varbit_width
from soft_switch.errors import UnsupportedConstructError
from soft_switch.program import (
    NEXT,
    Argument,
    Const,
    ElementField,
    ElementRef,
    FieldRef,
    HeaderDef,
    HeaderRef,
    ObjectRef,
    Primitive,
    StackRef,
    UnionRef,
)

DIGEST = "digest_list"
"""Variable with the id of the digest that ingress asked for last; 0 for none."""

LENGTH = frozenset(("n",))
"""The variable with the length of the packet as it came in, bytes."""
CLOCK = frozenset(("now_ns",))
"""The variable with the time of the block that runs."""

Handler = Callable[[Compiler, Primitive], list[Stmt]]


def emit_action(
    context: Context, scope: Scope, primitives: Sequence[Primitive], params: tuple[Value, ...]
) -> list[Stmt]:
    """Statements of an action body. ``scope`` is brought up to date. An ``exit`` ends in a :class:`Break`."""
    return _Body(context, primitives, params).emit(0, None, scope)


class _Body:
    """Straight-line parts between the jumps of an action, put back into nested conditionals."""

    def __init__(self, context: Context, primitives: Sequence[Primitive], params: tuple[Value, ...]) -> None:
        self._context = context
        self._primitives = primitives
        self._params = params
        self._meets: dict[int, int | None] | None
        try:
            self._meets = post_dominators(0 if primitives else None, self._successors)
        except CycleError:
            self._meets = None

    def _successors(self, index: int) -> list[int | None]:
        primitive = self._primitives[index]
        following = self._at(index + 1)
        if primitive.op == "_jump":
            return [self._target(primitive, 0)]
        if primitive.op == "_jump_if_zero":
            return [following, self._target(primitive, 1)]
        return [following]

    def _at(self, index: int) -> int | None:
        return index if index < len(self._primitives) else None

    def _target(self, primitive: Primitive, position: int) -> int | None:
        target = primitive.args[position]
        if not isinstance(target, Const):
            raise UnsupportedConstructError("computed jump", primitive.place)
        return self._at(target.value)

    def _loop(self, scope: Scope) -> list[Stmt]:
        """An action with jumps back: its straight parts as the parts of a loop. What they know of variables is lost."""
        jumps = [i for i, p in enumerate(self._primitives) if p.op in ("_jump", "_jump_if_zero")]
        starts = {0} | {after for i in jumps for after in self._successors(i) if after is not None}
        counter = self._context.fresh("part")
        parts: dict[int, list[Stmt]] = {}
        for start in sorted(starts):
            own, at = Scope(), start
            body: list[Stmt] = []
            while True:
                primitive = self._primitives[at]
                compiler = Compiler(self._context, own, primitive.place, self._params)
                following = [-1 if after is None else after for after in self._successors(at)]
                if primitive.op == "exit":
                    raise UnsupportedConstructError("exit in an action with a loop", primitive.place)
                if primitive.op == "_jump_if_zero":
                    condition = compiler.truth(primitive.args[0])
                    text = f"{following[0]} if {condition.text} else {following[1]}"
                    body.append(Assign(counter, text, condition.reads))
                    break
                if primitive.op != "_jump":
                    body += emit_primitive(compiler, primitive)
                at = following[0]
                if at in starts or at < 0:
                    body.append(Assign(counter, str(at)))
                    break
            parts[start] = body
        loop = Loop(counter, parts)
        scope.forget(written([loop]))
        return [Assign(counter, "0"), loop]

    def emit(self, start: int | None, stop: int | None, scope: Scope) -> list[Stmt]:
        if self._meets is None:
            return self._loop(scope)
        result: list[Stmt] = []
        at = start if self._primitives else None
        while at != stop and at is not None:
            primitive = self._primitives[at]
            compiler = Compiler(self._context, scope, primitive.place, self._params)
            if primitive.op == "exit":
                result += self.emit(self._at(at + 1), None, scope)
                result.append(Break())
                return result
            if primitive.op == "_jump_if_zero":
                meet = self._meets[at]
                yes, no = self._successors(at)
                condition = compiler.truth(primitive.args[0])
                one, other = scope.copy(), scope.copy()
                branch = If([(condition.text, condition.reads, self.emit(yes, meet, one))], self.emit(no, meet, other))
                result.append(branch)
                scope.forget(written([branch]))
                at = meet
                continue
            if primitive.op != "_jump":
                result += emit_primitive(compiler, primitive)
            at = self._successors(at)[0]
        return result


def emit_primitive(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    """Statements of one primitive."""
    handler = _HANDLERS.get(primitive.op)
    if handler is None:
        raise UnsupportedConstructError(f"primitive {primitive.op!r}", primitive.place)
    for position, argument in enumerate(primitive.args):
        if isinstance(argument, ElementRef) or (position == 0 and isinstance(argument, ElementField)):
            return _at_element(compiler, primitive, position)
    try:
        return handler(compiler, primitive)
    except IndexError as error:
        raise UnsupportedConstructError(
            f"primitive {primitive.op!r} with {len(primitive.args)} arguments", primitive.place
        ) from error


def _at_element(compiler: Compiler, primitive: Primitive, position: int) -> list[Stmt]:
    """The primitive for each element of a stack that a computed index may mean; for none where there is none."""
    argument = primitive.args[position]
    element = argument.element if isinstance(argument, ElementField) else argument
    assert isinstance(element, ElementRef)
    headers = compiler.context.program.stacks[element.stack]
    index = compiler.value(element.index)
    before: list[Stmt] = []
    if index.const is None:
        name = compiler.context.fresh("i")
        before.append(Assign(name, index.text, index.reads))
        index = Value(name, index.low, index.high, frozenset((name,)), atom=True)
    branches = []
    for number, header in enumerate(headers):
        target: Argument = FieldRef(header, argument.name) if isinstance(argument, ElementField) else HeaderRef(header)
        args = (*primitive.args[:position], target, *primitive.args[position + 1 :])
        one = Compiler(compiler.context, compiler.scope.copy(), compiler.place, compiler.params)
        body = emit_primitive(one, Primitive(primitive.op, args, primitive.place))
        if index.const == number:
            compiler.scope.forget(written(body))
            return body
        branches.append((f"{index.text} == {number}", index.reads, body))
    if index.const is not None:
        return []
    choice = If(branches)
    compiler.scope.forget(written([choice]))
    return [*before, choice]


def _field(primitive: Primitive, position: int) -> FieldRef:
    target = primitive.args[position]
    if not isinstance(target, FieldRef):
        raise UnsupportedConstructError("target that is computed", primitive.place)
    return target


def _object(primitive: Primitive, position: int) -> str:
    target = primitive.args[position]
    if not isinstance(target, ObjectRef):
        raise UnsupportedConstructError(f"primitive {primitive.op!r} on {target}", primitive.place)
    return target.name


def _assign(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    return compiler.assign(_field(primitive, 0), compiler.value(primitive.args[1]))


def _mark_to_drop(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    program = compiler.context.program
    header = header_name(primitive.args[0], primitive.place) if primitive.args else "standard_metadata"
    result = compiler.assign(FieldRef(header, "egress_spec"), constant(DROP_PORT))
    if any(f.name == "mcast_grp" for f in program.headers[header].fields):
        result += compiler.assign(FieldRef(header, "mcast_grp"), constant(0))
    return result


def _change_length(context: Context, header: HeaderDef, sign: str) -> Assign:
    text, reads = f"{PACKET_LENGTH} {sign} {header.width // 8}", frozenset((PACKET_LENGTH,))
    if header.varbit is not None:
        name = context.name(FieldRef(header.name, header.varbit.name))
        text, reads = f"{text} {sign} {varbit_width(name)} // 8", reads | {name}
    return Assign(PACKET_LENGTH, text, reads)


def _zeroed(context: Context, header: str) -> list[Stmt]:
    fields = context.fields_of(context.program.headers[header])
    return [Assign(context.raw(header), "0"), *(Assign(context.name(ref), "0") for ref in fields)]


def emit_only_member(context: Context, header: str) -> list[Stmt]:
    """Once a member of a header union is valid, no other is."""
    result: list[Stmt] = []
    for other in context.program.siblings(header):
        valid = context.valid(other)
        result.append(If([(valid, frozenset((valid,)), [Assign(valid, "0"), *_zeroed(context, other)])]))
    return result


def _add_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    context = compiler.context
    header = header_name(primitive.args[0], primitive.place)
    valid = context.valid(header)
    length = _change_length(context, context.program.headers[header], "+")
    body = [Assign(valid, "1"), *_zeroed(context, header), length, *emit_only_member(context, header)]
    result: list[Stmt] = [If([(f"not {valid}", frozenset((valid,)), body)])]
    compiler.scope.forget(written(result))
    compiler.scope.learn(valid, constant(1))
    return result


def _remove_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    context = compiler.context
    header = header_name(primitive.args[0], primitive.place)
    valid = context.valid(header)
    length = _change_length(context, context.program.headers[header], "-")
    body = [Assign(valid, "0"), length, *_zeroed(context, header)]
    result: list[Stmt] = [If([(valid, frozenset((valid,)), body)])]
    compiler.scope.forget(written(result))
    compiler.scope.learn(valid, constant(0))
    return result


def _assign_header(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, source = (header_name(a, primitive.place) for a in primitive.args[:2])
    result = _copy_header(compiler.context, target, source, primitive.place)
    others = emit_only_member(compiler.context, target)
    if others:
        valid = compiler.context.valid(target)
        result.append(If([(valid, frozenset((valid,)), others)]))
    compiler.scope.forget(written(result))
    return result


def _copy_header(context: Context, target: str, source: str, place: str) -> list[Stmt]:
    one, other = context.program.headers[target], context.program.headers[source]
    if [f.width for f in one.fields] != [f.width for f in other.fields]:
        raise UnsupportedConstructError("assignment between headers of different types", place)
    pairs = [(context.valid(target), context.valid(source)), (context.raw(target), context.raw(source))]
    pairs += [
        (context.name(a), context.name(b))
        for a, b in zip(context.fields_of(one), context.fields_of(other), strict=True)
    ]
    return [Assign(a, b, frozenset((b,))) for a, b in pairs]


def _assign_all(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    """Assignment of a stack or a union: header by header."""
    program, names = compiler.context.program, []
    for argument in primitive.args[:2]:
        if not isinstance(argument, StackRef | UnionRef):
            raise UnsupportedConstructError(f"primitive {primitive.op!r} on {argument}", primitive.place)
        names.append(argument.name)
    result: list[Stmt] = []
    for target, source in zip(program.headers_of(names[0]), program.headers_of(names[1]), strict=True):
        result += _copy_header(compiler.context, target, source, primitive.place)
    if names[0] in program.stacks:
        target, source = (compiler.context.name(FieldRef(name, NEXT)) for name in names)
        result.append(Assign(target, source, frozenset((source,))))
    compiler.scope.forget(written(result))
    return result


def _shift_stack(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    """push_front and pop_front: elements move by a constant, and those that come in are not valid."""
    context = compiler.context
    stack, count = primitive.args[:2]
    if not isinstance(stack, StackRef) or not isinstance(count, Const):
        raise UnsupportedConstructError(f"primitive {primitive.op!r} on {stack}", primitive.place)
    elements = context.program.stacks[stack.name]
    groups = [context.program.headers_of(e) if e in context.program.unions else [e] for e in elements]
    size, step = len(groups), min(count.value, len(groups))
    filled = context.name(FieldRef(stack.name, NEXT))
    result: list[Stmt] = []
    if primitive.op == "push":
        moves, empty = [(i, i - step) for i in range(size - 1, step - 1, -1)], range(step)
        text = f"min({filled} + {step}, {size})"
    else:
        moves, empty = [(i, i + step) for i in range(size - step)], range(size - step, size)
        text = f"max({filled} - {step}, 0)"
    for to, at in moves:
        for target, source in zip(groups[to], groups[at], strict=True):
            result += _copy_header(context, target, source, primitive.place)
    for index in empty:
        for header in groups[index]:
            result += [Assign(context.valid(header), "0"), *_zeroed(context, header)]
    result.append(Assign(filled, text, frozenset((filled,))))
    compiler.scope.forget(written(result))
    return result


def _assign_varbit(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, source = _field(primitive, 0), _field(primitive, 1)
    name, value = compiler.context.name(target), compiler.field(source)
    compiler.scope.learn(name, value)
    return [Assign(name, value.text, value.reads)]


def _index(compiler: Compiler, primitive: Primitive, position: int, size: int) -> tuple[list[Stmt], Value, str | None]:
    """(what to do before, the index, the condition under which it is within ``size`` or None where it always is)."""
    value = compiler.value(primitive.args[position])
    before: list[Stmt] = []
    if not value.atom:
        name = compiler.context.fresh("i")
        before.append(Assign(name, value.text, value.reads))
        value = Value(name, value.low, value.high, frozenset((name,)), atom=True)
    if value.low >= 0 and value.high < size:
        return before, value, None
    if value.low < 0:
        return before, value, f"0 <= {value.text} < {size}"
    return before, value, f"{value.text} < {size}"


def _guarded(condition: str | None, reads: frozenset[str], body: list[Stmt]) -> list[Stmt]:
    return body if condition is None else [If([(condition, reads, body)])]


def _count(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    name = _object(primitive, 0)
    counter = compiler.context.externs[f"counter:{name}"]
    before, index, condition = _index(compiler, primitive, 1, counter.size)
    packets = compiler.context.share(f"{name}_packets", counter.packets)
    octets = compiler.context.share(f"{name}_bytes", counter.bytes)
    effect = Effect((f"{packets}[{index.text}] += 1", f"{octets}[{index.text}] += n"), index.reads | LENGTH)
    return before + _guarded(condition, index.reads, [effect])


def _register_read(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, name = _field(primitive, 0), _object(primitive, 1)
    array = compiler.context.externs[f"register:{name}"]
    before, index, condition = _index(compiler, primitive, 2, array.size)
    values = compiler.context.share(f"{name}_values", array.values)
    low, high = limits(array.width, False)
    read = Value(f"{values}[{index.text}]", low, high, index.reads, atom=True)
    body = compiler.assign(target, read)
    if condition is not None:
        compiler.overwritten(compiler.context.name(target))
    return before + _guarded(condition, index.reads, body)


def _register_write(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    name = _object(primitive, 0)
    array = compiler.context.externs[f"register:{name}"]
    before, index, condition = _index(compiler, primitive, 1, array.size)
    values = compiler.context.share(f"{name}_values", array.values)
    value = fit(compiler.value(primitive.args[2]), array.width, False)
    effect = Effect((f"{values}[{index.text}] = {value.text}",), index.reads | value.reads)
    return before + _guarded(condition, index.reads, [effect])


def _execute_meter(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    name, target = _object(primitive, 0), _field(primitive, 2)
    meter = compiler.context.externs[f"meter:{name}"]
    before, index, condition = _index(compiler, primitive, 1, meter.size)
    execute = compiler.context.share(f"{name}_execute", meter.execute)
    variable = compiler.context.name(target)
    definition = compiler.context.program.field_def(target)
    call = Value(f"{execute}({index.text}, n, now_ns)", 0, 2, atom=True)
    effect = Effect(
        (f"{variable} = {fit(call, definition.width, definition.signed).text}",),
        index.reads | LENGTH | CLOCK,
        frozenset((variable,)),
    )
    compiler.overwritten(variable)
    return before + _guarded(condition, index.reads, [effect])


def _hash(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, base, name = _field(primitive, 0), compiler.value(primitive.args[1]), _object(primitive, 2)
    size = compiler.value(primitive.args[3])
    value = hash_value(compiler, compiler.context.program.calculations[name])
    if size.const is None:
        text = f"{value.text} % ({size.operand} or 1)"
        value = Value(text, 0, max(size.high - 1, 0), value.reads | size.reads)
    elif (size.const or 1) <= value.high:
        value = Value(f"{value.text} % {size.const or 1}", 0, (size.const or 1) - 1, value.reads)
    if base.const != 0:
        value = Value(
            f"{value.operand} + {base.operand}", value.low + base.low, value.high + base.high, value.reads | base.reads
        )
    return compiler.assign(target, value)


def _random(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    target, low, high = _field(primitive, 0), compiler.value(primitive.args[1]), compiler.value(primitive.args[2])
    definition = compiler.context.program.field_def(target)
    variable = compiler.context.name(target)
    randint = compiler.context.share("randint", compiler.context.externs["randint"])
    draw = Value(f"{randint}({low.text}, {high.text})", low.low, high.high, atom=True)
    reads = low.reads | high.reads
    text = f"{variable} = {fit(draw, definition.width, definition.signed).text}"
    effect = Effect((text,), reads, frozenset((variable,)))
    compiler.overwritten(variable)
    possible = operators.compare("<=", low, high)
    return _guarded(None if possible.known else possible.text, reads, [effect])


def _digest(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    number = primitive.args[1]
    if not isinstance(number, Const) or number.value not in compiler.context.program.digests:
        raise UnsupportedConstructError("digest of an unknown list", primitive.place)
    return [Assign(DIGEST, str(number.value))]


def _clone(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    session, fields = compiler.value(primitive.args[0]), compiler.value(primitive.args[1])
    return [
        Assign(CLONE, session_note(session.operand), session.reads),
        Assign(CLONE_LIST, fields.text, fields.reads),
    ]


def _come_again(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    fields = compiler.value(primitive.args[0])
    return [Assign(RESUBMIT if primitive.op == "resubmit" else RECIRCULATE, fields.text, fields.reads)]


def _truncate(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    length = compiler.value(primitive.args[0])
    text = f"min({TRUNCATE} or {length.operand} + 1, {length.operand} + 1)"
    return [Assign(TRUNCATE, text, length.reads | {TRUNCATE})]


def _log_msg(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    given = primitive.args[1] if len(primitive.args) > 1 else ()
    values = [compiler.value(v) for v in (given if isinstance(given, tuple) else ())]
    log = compiler.context.share("log_msg", compiler.context.externs["log"])
    arguments = ", ".join([repr(primitive.args[0]), *(v.text for v in values)])
    return [Effect((f"{log}({arguments})",), frozenset().union(*(v.reads for v in values)))]


def _assertion(compiler: Compiler, primitive: Primitive) -> list[Stmt]:
    condition = compiler.truth(primitive.args[0])
    fail = compiler.context.share("fail", compiler.context.externs["fail"])
    effect = Effect((f"{fail}({primitive.op!r}, {primitive.place!r})",))
    return [If([(f"not {condition.operand}", condition.reads, [effect])])]


def _nothing(_: Compiler, __: Primitive) -> list[Stmt]:
    return []


_HANDLERS: dict[str, Handler] = {
    "assign": _assign,
    "mark_to_drop": _mark_to_drop,
    "drop": _mark_to_drop,
    "add_header": _add_header,
    "remove_header": _remove_header,
    "assign_header": _assign_header,
    "copy_header": _assign_header,
    "assign_header_stack": _assign_all,
    "assign_union": _assign_all,
    "assign_union_stack": _assign_all,
    "assign_VL": _assign_varbit,
    "push": _shift_stack,
    "pop": _shift_stack,
    "count": _count,
    "register_read": _register_read,
    "register_write": _register_write,
    "execute_meter": _execute_meter,
    "modify_field_with_hash_based_offset": _hash,
    "modify_field_rng_uniform": _random,
    "generate_digest": _digest,
    "clone_ingress_pkt_to_egress": _clone,
    "clone_egress_pkt_to_egress": _clone,
    "resubmit": _come_again,
    "recirculate": _come_again,
    "truncate": _truncate,
    "log_msg": _log_msg,
    "assert": _assertion,
    "assume": _assertion,
    "no_op": _nothing,
}
