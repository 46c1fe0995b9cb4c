"""Expressions of the generated Python as C."""

from __future__ import annotations

import ast
from array import array
from collections.abc import Sequence

from soft_switch.model.cells import WideCells
from soft_switch.model.externs import METER_WORDS, DirectMeter, MeterArray
from soft_switch.model.hashes import ALGORITHMS, VARYING, HashMemo, PackedHash
from soft_switch.native import numbers
from soft_switch.native.errors import CannotTranslateError
from soft_switch.native.module import COUNTS, PARAMETERS, TIMES, Interval, Module, Request
from soft_switch.native.numbers import U64, Kind, Number, constant, convert, from_memory, kind_of, modular, words_of
from soft_switch.native.syntax import constant_of, distance, is_data, method_of
from soft_switch.tables.table import GROUP

_COMPARISONS = {"Eq": "==", "NotEq": "!=", "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">="}


class Expressions:
    """Those of one function. Variables that they set are noted as its own."""

    def __init__(self, module: Module, definition: ast.FunctionDef) -> None:
        self.module = module
        self.definition = definition
        self.name = definition.name
        self.locals: dict[str, None] = {}
        self.local_spans: dict[str, None] = {}
        self.local_records: dict[str, None] = {}
        self.local_entries: dict[str, None] = {}
        self.buffers: dict[str, int] = {}
        self.given: dict[str, Interval] = {"now_ns": TIMES}
        if self.name == "egress":
            self.given |= {"enqueued_ns": TIMES, "dequeued_ns": TIMES, "enq_qdepth": COUNTS, "deq_qdepth": COUNTS}
            del self.given["now_ns"]
        else:
            self.given["port"] = COUNTS
        self.kept_words = 0

    @staticmethod
    def _name(node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise CannotTranslateError(ast.unparse(node))
        return node.id

    def _local(self, name: str) -> None:
        if name not in self.given and name not in ("n", "data"):
            self.locals[name] = None

    def _is_special(self, name: str) -> bool:
        return name in self.module.spans or name in self.module.records or name in self.module.entries

    def _extern_name(self, node: ast.Call) -> str | None:
        if not isinstance(node.func, ast.Name):
            return None
        return self.module.extern_names.get(id(self.module.objects.get(node.func.id)))

    def _uses(self, name: str) -> bool:
        return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(self.definition))

    def condition(self, node: ast.expr) -> str:
        """A C condition."""
        if isinstance(node, ast.Constant):
            return "1" if node.value else "0"
        if isinstance(node, ast.BoolOp):
            sign = " && " if isinstance(node.op, ast.And) else " || "
            return f"({sign.join(self.condition(value) for value in node.values)})"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"(!{self.condition(node.operand)})"
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.IfExp):
            return f"({self.condition(node.test)} ? {self.condition(node.body)} : {self.condition(node.orelse)})"
        if isinstance(node, ast.Name) and node.id in self.module.spans:
            return f"(v_{node.id}_n != 0)"
        return numbers.is_set(self.number(node))

    def _comparison(self, node: ast.Compare) -> str:
        operands = [node.left, *node.comparators]
        tests = []
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            if isinstance(operator, ast.Is) and isinstance(left, ast.Name) and left.id == "again":
                return "(again == 0)"
            if isinstance(operator, ast.In) and isinstance(right, ast.Name) and isinstance(left, ast.Tuple):
                return self._member(left, right.id)
            sign = _COMPARISONS.get(type(operator).__name__)
            if sign is None:
                raise CannotTranslateError(ast.unparse(node))
            tests.append(numbers.compare(sign, self.number(left), self.number(right)))
        return tests[0] if len(tests) == 1 else f"({' && '.join(tests)})"

    def _member(self, key: ast.Tuple, name: str) -> str:
        words, shapes = [], []
        for part in key.elts:
            number = self.number(part)
            exact = kind_of(number.low, number.high)
            shapes.append((exact.bits // 64, exact.signed))
            words += words_of(number, exact)
        request = self.module.request(Request("member", (name,), tuple(shapes)))
        array_text = f"(u64[]){{{', '.join(words)}}}"
        return f"s->call(s->handle, {request}, {array_text})"

    def number(self, node: ast.expr, modulo: int | None = None) -> Number:
        """A number in C. With ``modulo`` only so many low bits of it have to be right."""
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return constant(int(node.value))
        if isinstance(node, ast.Name):
            return self._variable(node.id)
        if isinstance(node, ast.BinOp):
            return self._binary(node, modulo)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node, modulo)
        if isinstance(node, ast.IfExp):
            yes, no = self.number(node.body, modulo), self.number(node.orelse, modulo)
            return numbers.choice(self.condition(node.test), yes, no, modulo)
        if isinstance(node, ast.NamedExpr):
            number = self.number(node.value)
            name = self._name(node.target)
            self.module.widen(name, number.low, number.high)
            self._local(name)
            kind = self.module.kind(name)
            return Number(f"(v_{name} = {convert(number, kind)})", *self.module.interval(name), kind)
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and len(node.values) == 2:
            first, second = (self.number(value, modulo) for value in node.values)
            return numbers.choice(numbers.is_set(first), first, second, modulo)
        if isinstance(node, ast.Compare | ast.BoolOp):
            return Number(f"(u64)({self.condition(node)})", 0, 1, U64)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        raise CannotTranslateError(ast.unparse(node))

    def _variable(self, name: str) -> Number:
        if name in self.given:
            return Number(name, *self.given[name], U64)
        if name == "n":
            return Number("n", *COUNTS, U64)
        if name == ":size":
            return Number("size", *COUNTS, U64)
        if name.endswith(":length"):
            return Number(f"v_{name.removesuffix(':length')}_n", *COUNTS, U64)
        if self._is_special(name):
            raise CannotTranslateError(f"{name} as a number")
        if self.name == "egress" and name == "now_ns":
            return Number("dequeued_ns", *TIMES, U64)
        self._local(name)
        low, high = self.module.interval(name)
        return Number(f"v_{name}", low, high, self.module.kind(name))

    def _binary(self, node: ast.BinOp, modulo: int | None) -> Number:
        word = type(node.op).__name__
        if isinstance(node.op, ast.BitAnd):
            for mask, other in ((node.right, node.left), (node.left, node.right)):
                bits = constant_of(mask)
                if bits is not None and bits >= 0:
                    if modulo is not None:
                        bits &= (1 << modulo) - 1
                    return numbers.masked(self.number(other, max(bits.bit_length(), 1)), bits)
        if isinstance(node.op, ast.RShift):
            count = self.number(node.right)
            inner = None if modulo is None or count.const is None else modulo + count.const
            return numbers.shift_right(self.number(node.left, inner), count)
        if isinstance(node.op, ast.FloorDiv):
            return numbers.divide(self.number(node.left), self.number(node.right))
        if isinstance(node.op, ast.Mod):
            return self._remainder(node)
        if isinstance(node.op, ast.LShift):
            return numbers.shift_left(self.number(node.left, modulo), self.number(node.right), modulo)
        function = numbers.BINARY.get(word)
        if function is None:
            raise CannotTranslateError(ast.unparse(node))
        return function(self.number(node.left, modulo), self.number(node.right, modulo), modulo)

    def _remainder(self, node: ast.BinOp) -> Number:
        right = self.number(node.right)
        if isinstance(node.left, ast.UnaryOp) and isinstance(node.left.op, ast.USub) and right.const is not None:
            inner = self.number(node.left.operand)
            if inner.low >= 0 and 0 < right.const < 1 << 32:
                # -x % m out of x % m
                rest = convert(numbers.remainder(inner, right), U64)
                return Number(f"(({right.const}u - {rest}) % {right.const}u)", 0, right.const - 1, U64)
        return numbers.remainder(self.number(node.left), right)

    def _unary(self, node: ast.UnaryOp, modulo: int | None) -> Number:
        if isinstance(node.op, ast.Not):
            return Number(f"(u64)({self.condition(node)})", 0, 1, U64)
        inner = self.number(node.operand, modulo)
        if isinstance(node.op, ast.USub):
            return constant(-inner.low) if inner.const is not None else numbers.negate(inner, modulo)
        if isinstance(node.op, ast.Invert):
            return numbers.complement(inner, modulo)
        return inner

    def _subscript(self, node: ast.Subscript) -> Number:
        base, index = node.value, node.slice
        if isinstance(base, ast.Tuple):
            return self._pick(base.elts, self.number(index))
        if not isinstance(base, ast.Name):
            raise CannotTranslateError(ast.unparse(node))
        if base.id == "data":
            return Number(f"(u64)data[{convert(self.number(index), U64)}]", 0, 255, U64)
        if base.id == "packet":
            return Number("port", *COUNTS, U64) if constant_of(index) == 0 else Number("n", *COUNTS, U64)
        if base.id == "kept":
            return Number(f"kept[{constant_of(index)}]", 0, (1 << 64) - 1, U64)
        if base.id in self.module.records:
            return self._of_record(base.id, constant_of(index))
        thing = self.module.objects.get(base.id)
        if isinstance(thing, HashMemo):
            values = index.elts if isinstance(index, ast.Tuple) else [index]
            present = [self.number(value) for value in values[: thing.headers]]
            fields = [
                (self.number(value), width, None if header < 0 else present[header])
                for value, (header, width) in zip(values[thing.headers :], thing.fields, strict=True)
            ]
            return self._hash(thing.function, fields, False)
        cells = self._cells(base)
        if cells is not None:
            return self._read_cell(cells, index)
        raise CannotTranslateError(ast.unparse(node))

    def _cells(self, node: ast.expr) -> tuple[int, int, int] | None:
        """(number, cells, words of each) of an array of cells."""
        thing = self.module.objects.get(node.id) if isinstance(node, ast.Name) else None
        if not isinstance(thing, array | WideCells):
            return None
        assert isinstance(node, ast.Name)
        return self.module.cell(node.id), len(thing), thing.words if isinstance(thing, WideCells) else 1

    def _read_cell(self, cells: tuple[int, int, int], index: ast.expr) -> Number:
        number, size, words = cells
        at = self.number(index)
        text = convert(at, U64)
        if not (at.low >= 0 and at.high < size):
            # The generated Python has checked it; this only bounds what C may touch.
            text = f"({text} < {size}u ? {text} : 0)"
        kind = Kind(64 * words, False)
        thing = self.module.objects[self.module.result.cells[number]]
        high = (1 << self.module.register_widths.get(id(thing), 64 * words)) - 1
        cell = f"s->cells[{number}] + {text} * {words}"
        return from_memory(cell, kind, high)

    def _pick(self, parts: Sequence[ast.expr], index: Number) -> Number:
        """One of several values, where the index is within them."""
        result = self.number(parts[-1])
        for number in range(len(parts) - 2, -1, -1):
            test = numbers.compare("==", index, constant(number))
            result = numbers.choice(test, self.number(parts[number]), result)
        return result

    def _of_record(self, name: str, index: int | None) -> Number:
        if index is None:
            raise CannotTranslateError(f"{name} at a computed place")
        if index == 0:
            ids = [action_id for action_id, _ in self.module.layouts[self.module.records[name]][0].actions.values()]
            return Number(f"(i64)v_{name}[0]", GROUP, max([0, *ids]), Kind(64, True))
        if index == 1:
            return Number(f"v_{name}[1]", 0, 1, U64)
        layout = self.module.layouts[self.module.records[name]][1]
        if index - PARAMETERS >= len(layout.places) or index < PARAMETERS:
            raise CannotTranslateError(f"{name}[{index}]")
        at, words, width = layout.places[index - PARAMETERS]
        return from_memory(f"v_{name} + {at}", Kind(64 * words, False), (1 << width) - 1)

    def _call(self, node: ast.Call) -> Number:
        method = method_of(node)
        if method == "from_bytes":
            return self._from_bytes(node, None)
        if method == "bit_length":
            assert isinstance(node.func, ast.Attribute)
            return numbers.bit_length(self.number(node.func.value))
        if not isinstance(node.func, ast.Name):
            raise CannotTranslateError(ast.unparse(node))
        if node.func.id == "len":
            return self._variable(":size" if is_data(node.args[0]) else f"{self._name(node.args[0])}:length")
        if node.func.id in ("min", "max"):
            first, second = (self.number(value) for value in node.args)
            sign = "<" if node.func.id == "min" else ">"
            return numbers.choice(numbers.compare(sign, first, second), first, second)
        if self._extern_name(node) == "randint":
            low, high = (self.number(value) for value in node.args)
            request = self.module.request(Request("randint", (), ((1, False), (1, False))))
            words = f"{convert(low, U64)}, {convert(high, U64)}"
            return Number(f"draw(s, {request}, {words})", max(low.low, 0), high.high, U64)
        thing = self.module.objects.get(node.func.id)
        if isinstance(thing, PackedHash):
            return self._packed_hash(thing, node)
        owner = getattr(thing, "__self__", None)
        if isinstance(owner, MeterArray):
            return self._meter(node.func.id, owner, node)
        if isinstance(owner, DirectMeter):
            return self._direct_meter(owner, node)
        raise CannotTranslateError(f"a call of {ast.unparse(node.func)}")

    def _slice(self, node: ast.Subscript) -> tuple[Number, Number]:
        assert isinstance(node.slice, ast.Slice)
        if node.slice.lower is None or node.slice.upper is None:
            raise CannotTranslateError(ast.unparse(node))
        return self.number(node.slice.lower), self.number(node.slice.upper)

    def _from_bytes(self, node: ast.Call, limit: Interval | None) -> Number:
        source = node.args[0]
        assert isinstance(source, ast.Subscript)
        assert isinstance(source.slice, ast.Slice)
        begin, end = self._slice(source)
        size = distance(source.slice)
        if size is not None:
            high = (1 << 8 * size) - 1
            kind = kind_of(0, high)
            at = f"data + {convert(begin, U64)}"
            if kind.is_wide:
                return Number(f"{kind.name}_load({at}, {size})", 0, high, kind)
            return Number(f"{'load' if kind.bits == 64 else 'load_128'}({at}, {size})", 0, high, kind)
        if limit is None:
            raise CannotTranslateError(ast.unparse(node))
        kind = Kind(max(192, kind_of(*limit).bits), False)
        length = f"{convert(end, U64)} - {convert(begin, U64)}"
        return Number(f"{kind.name}_load(data + {convert(begin, U64)}, {length})", 0, limit[1], kind)

    def _meter(self, name: str, meter: MeterArray, node: ast.Call) -> Number:
        index = convert(self.number(node.args[0]), U64)
        words = self.module.cell(name)
        at = f"s->cells[{words}] + ({index} < {meter.size}u ? {index} : 0) * {METER_WORDS}"
        units = "1" if meter.unit == "packets" else "n"
        return Number(f"meter_execute({at}, {units}, {self._now()})", 0, 2, U64)

    def _direct_meter(self, meter: DirectMeter, node: ast.Call) -> Number:
        entry = node.args[0]
        assert isinstance(entry, ast.Subscript)
        name = self._name(entry.value)
        units = "1" if meter.unit == "packets" else "n"
        cells = f"(u64 *)(uintptr_t)v_{name}[2]"
        return Number(f"meter_execute({cells} + 2, {units}, {self._now()})", 0, 2, U64)

    def _now(self) -> str:
        return "dequeued_ns" if self.name == "egress" else "now_ns"

    def _packed_hash(self, thing: PackedHash, node: ast.Call) -> Number:
        fields = []
        for part, width in zip(node.args[1:], thing.widths, strict=True):
            assert isinstance(part, ast.Tuple)
            present, value = (self.number(item) for item in part.elts)
            fields.append((value, width, None if present.const == 1 else present))
        return self._hash(thing.function, fields, isinstance(node.args[0], ast.Subscript))

    def _hash(self, function: object, fields: Sequence[tuple[Number, int, Number | None]], payload: bool) -> Number:
        """Fields (value, width in bits, validity) one after the other, then the payload, into a hash function."""
        algorithm = next(name for name, known in ALGORITHMS.items() if known is function)
        word = algorithm.removesuffix("_custom")
        total = sum(value.high.bit_length() if width == VARYING else width for value, width, _ in fields)
        lines = [f"u8 packed_[{total // 8 + 9}]; struct packer p_ = {{packed_, 0}};"]
        for value, width, present in fields:
            if width == VARYING:
                lines.append(self._put_varying(value, present))
                continue
            kind = modular(max(width, 1))
            if kind.bits == 64:
                mask = (1 << width) - 1
                text = f"put(&p_, {convert(numbers.masked(value, mask), U64)}, {width});"
            else:
                text = f"{{ const u64 w_[] = {{{', '.join(words_of(value, kind))}}}; put_words(&p_, w_, {width}); }}"
            lines.append(text if present is None else f"if ({numbers.is_set(present)}) {text}")
        rest = "data + (v_off < size ? v_off : size), (v_off < size ? size - v_off : 0)" if payload else "data, 0"
        if payload:
            self._local("off")
        lines.append(f"{word}(packed_, packed(&p_), {rest});")
        high = (1 << {"crc32": 32, "identity": 64}.get(word, 16)) - 1
        return Number(f"({{ {' '.join(lines)} }})", 0, high, U64)

    def _put_varying(self, value: Number, present: Number | None) -> str:
        kind = Kind(max(192, value.kind.bits), False)
        text = (
            f"{{ {kind.name} w_ = {convert(value, kind)}; u64 bits_ = {kind.name}_bits(w_); "
            f"if (bits_ > 1) put_words(&p_, w_.w, (u32)bits_ - 1); }}"
        )
        return text if present is None else f"if ({numbers.is_set(present)}) {text}"
