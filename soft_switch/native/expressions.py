"""Prints expressions as C."""

from __future__ import annotations

from collections.abc import Sequence

from soft_switch.ir import expressions as ex
from soft_switch.ir.program import EGRESS, INGRESS, PARSE_AGAIN, Function
from soft_switch.model.externs import METER_WORDS
from soft_switch.model.hashes import ALGORITHMS, VARYING, HashFunction
from soft_switch.native import numbers
from soft_switch.native.module import Module, Request
from soft_switch.native.numbers import U64, CNumber, Kind, convert, from_memory, kind_of, modular, words_of
from soft_switch.tables.entry import METER_AT

PARAMETERS_OF = {
    INGRESS: ("port", "now_ns"),
    PARSE_AGAIN: ("port", "now_ns"),
    EGRESS: ("port", "enqueued_ns", "dequeued_ns", "enq_qdepth", "deq_qdepth"),
}
"""Variables that are parameters of a function."""


def _interval(node: ex.Number) -> ex.Interval:
    return node.low, node.high


class ExpressionPrinter:
    """Printer of the expressions of one function; it notes which variables they use."""

    def __init__(self, module: Module, function: Function) -> None:
        self.module = module
        self.function = function
        self.used: dict[str, None] = {}

    def use(self, name: str) -> str:
        """Return the name of a variable in C."""
        if name not in PARAMETERS_OF[self.function.name]:
            self.used[name] = None
        return f"v_{name}"

    # ---- conditions ----

    def condition(self, node: ex.Condition) -> str:
        """Print a condition in C."""
        match node:
            case ex.Known(value):
                return str(int(value))
            case ex.NotZero(number):
                return numbers.is_set(self.number(number))
            case ex.Compare(sign, left, right):
                return numbers.compare(sign, self.number(left), self.number(right))
            case ex.Not(operand):
                return f"(!{self.condition(operand)})"
            case ex.Junction(word, left, right):
                return f"({self.condition(left)} {'&&' if word == 'and' else '||'} {self.condition(right)})"
            case ex.Either(condition, yes, no):
                return f"({self.condition(condition)} ? {self.condition(yes)} : {self.condition(no)})"
            case ex.Member(name, values):
                return self._member(name, values)
            case ex.IsNew():
                return "(again == 0)"
        raise NotImplementedError(type(node).__name__)

    def _member(self, name: str, values: Sequence[ex.Number]) -> str:
        shapes, words = self.shaped(values)
        request = self.module.request(Request("member", (name,), shapes))
        return f"s->call(s->handle, {request}, (u64[]){{{', '.join(words)}}})"

    def shaped(self, values: Sequence[ex.Number]) -> tuple[tuple[tuple[int, bool], ...], list[str]]:
        """Return arguments for Python: (words and sign of each, all words)."""
        shapes, words = [], list[str]()
        for value in values:
            kind = kind_of(value.low, value.high)
            shapes.append((kind.bits // 64, kind.signed))
            words += words_of(self.number(value), kind)
        return tuple(shapes), words

    # ---- numbers ----

    def number(self, node: ex.Number, modulo: int | None = None) -> CNumber:
        """Print a number in C. With ``modulo``, only that many low bits have to be right."""
        match node:
            case ex.Literal(value):
                return numbers.constant(value)
            case ex.Var(low, high, name) | ex.Bound(low, high, name):
                return CNumber(self.use(name), low, high, self.module.kind(name))
            case ex.Binary():
                return self._binary(node, modulo)
            case ex.Unary(low, high, sign, operand):
                inner = self.number(operand, modulo)
                if sign == "~":
                    return numbers.complement(inner, (low, high), modulo)
                return numbers.infix("-", numbers.constant(0), inner, (low, high), modulo)
            case ex.Choice(low, high, condition, yes, no):
                test = self.condition(condition)
                return numbers.choice(test, self.number(yes, modulo), self.number(no, modulo), (low, high), modulo)
            case ex.Bind(low, high, name, value):
                kind = self.module.kind(name)
                return CNumber(f"({self.use(name)} = {convert(self.number(value), kind)})", low, high, kind)
            case ex.Pick(low, high, items, index):
                return self._pick(items, self.number(index), (low, high))
            case ex.BitLength(low, high, operand):
                return numbers.bit_length(self.number(operand), (low, high))
            case ex.Load():
                return self._load(node)
            case ex.Length(low, high, name):
                return CNumber("size" if name == "data" else f"{self.use(name)}_n", low, high, U64)
            case ex.EgressPort(low, high):
                return CNumber("v_port", low, high, U64)
            case ex.Kept(low, high, position):
                return CNumber(f"kept[{position}]", low, high, U64)
        return self._access(node)

    def _access(self, node: ex.Number) -> CNumber:
        """Print an access to an object or to the result of a table."""
        match node:
            case ex.ResultField():
                return self._of_result(node)
            case ex.Cell(_, high, cells, index):
                return self._cell(cells, self.number(index), high)
            case ex.MemoHash():
                return self._memo_hash(node)
            case ex.FieldsHash():
                return self._fields_hash(node)
            case ex.Meter(low, high, _, meter, index):
                text = convert(self.number(index), U64)
                at = f"{self.module.memory(meter.words)} + ({text} < {meter.size}u ? {text} : 0) * {METER_WORDS}"
                return CNumber(f"meter_execute({at}, {self._units(meter.unit)}, {self.use('now_ns')})", low, high, U64)
            case ex.EntryMeter(low, high, _, meter, record):
                at = f"{self.entry(record)} + {METER_AT}"
                return CNumber(f"meter_execute({at}, {self._units(meter.unit)}, {self.use('now_ns')})", low, high, U64)
            case ex.Random(low, high, _, least, most):
                request = self.module.request(Request("randint", (), ((1, False), (1, False))))
                ends = ", ".join(convert(self.number(end), U64) for end in (least, most))
                return CNumber(f"draw(s, {request}, {ends})", max(low, 0), high, U64)
        raise NotImplementedError(type(node).__name__)

    def _of_result(self, node: ex.ResultField) -> CNumber:
        variable, position = self.use(node.record), node.position - ex.PARAMETERS
        if position < 0:
            return CNumber(f"(i64){variable}[{node.position}]", node.low, node.high, Kind(64, True))
        at, words, _ = self.module.layout(self.module.types.records[node.record]).places[position]
        return from_memory(f"{variable} + {at}", Kind(64 * words, False), node.high)

    def entry(self, record: str) -> str:
        """Return the address of the cells of the entry that was hit."""
        return f"(u64 *)(uintptr_t){self.use(record)}[2]"

    def _units(self, unit: str) -> str:
        return "1" if unit == "packets" else self.use("n")

    def _binary(self, node: ex.Binary, modulo: int | None) -> CNumber:
        sign, result = node.sign, _interval(node)
        if sign == "&" and node.right.const is not None and node.right.const >= 0:
            # Bits above those of the result are 0 anyway.
            bits = min(node.high.bit_length(), node.high.bit_length() if modulo is None else modulo)
            mask = node.right.const & ((1 << bits) - 1)
            return numbers.masked(self.number(node.left, max(mask.bit_length(), 1)), mask)
        right = self.number(node.right, modulo if sign in numbers.MODULAR else None)
        if sign == ">>":
            inner = None if modulo is None or right.const is None else modulo + right.const
            return numbers.shift_right(self.number(node.left, inner), right, result)
        if sign == "<<":
            return numbers.shift_left(self.number(node.left, modulo), right, result, modulo)
        if sign == "//":
            return numbers.divide(self.number(node.left), right, result)
        if sign == "%":
            return self._remainder(node, right)
        return numbers.infix(sign, self.number(node.left, modulo), right, result, modulo)

    def _remainder(self, node: ex.Binary, right: CNumber) -> CNumber:
        left, divisor = node.left, right.const
        if isinstance(left, ex.Unary) and left.sign == "-" and left.operand.low >= 0 and 0 < (divisor or 0) < 1 << 32:
            # -x % m out of x % m
            rest = numbers.remainder(self.number(left.operand), right, (0, right.high - 1))
            return CNumber(f"(({divisor}u - {convert(rest, U64)}) % {divisor}u)", *_interval(node), U64)
        return numbers.remainder(self.number(left), right, _interval(node))

    def _pick(self, items: Sequence[ex.Number], index: CNumber, result: ex.Interval) -> CNumber:
        """Print one of several values; the index is in range."""
        chosen = self.number(items[-1])
        for number in range(len(items) - 2, -1, -1):
            test = numbers.compare("==", index, numbers.constant(number))
            chosen = numbers.choice(test, self.number(items[number]), chosen, result)
        return chosen

    def _cell(self, name: str, index: CNumber, high: int) -> CNumber:
        cells, size, words = self.module.cells(name)
        text = convert(index, U64)
        if not (index.low >= 0 and index.high < size):
            # The program has checked it; this only bounds what C may touch.
            text = f"({text} < {size}u ? {text} : 0)"
        return from_memory(f"{cells} + {text} * {words}", Kind(64 * words, False), high)

    def _load(self, node: ex.Load) -> CNumber:
        at, size = f"data + {self.word(node.begin)}", str(node.size)
        kind = kind_of(node.low, node.high)
        if node.size is None:
            kind = Kind(max(192, kind.bits), False)
            size = f"{self.word(node.end)} - {self.word(node.begin)}"
        function = f"{kind.name}_load" if kind.is_wide else "load" if kind.bits == 64 else "load_128"
        return CNumber(f"{function}({at}, {size})", node.low, node.high, kind)

    def word(self, node: ex.Number) -> str:
        """Print a number as 64 unsigned bits."""
        return convert(self.number(node), U64)

    # ---- hashes ----

    def _memo_hash(self, node: ex.MemoHash) -> CNumber:
        memo = node.memo
        fields = [
            (value, width, None if header < 0 else node.key[header])
            for value, (header, width) in zip(node.key[memo.headers :], memo.fields, strict=True)
        ]
        return self._hash(memo.function, fields, ex.NoBytes(), _interval(node))

    def _fields_hash(self, node: ex.FieldsHash) -> CNumber:
        fields = [
            (value, width, None if present.const == 1 else present)
            for (present, value), width in zip(node.fields, node.function.widths, strict=True)
        ]
        return self._hash(node.function.function, fields, node.payload, _interval(node))

    def _hash(
        self,
        function: HashFunction,
        fields: Sequence[tuple[ex.Number, int, ex.Number | None]],
        payload: ex.Bytes,
        result: ex.Interval,
    ) -> CNumber:
        """Print a hash over fields (value, width in bits, validity), in order, then the payload."""
        word = next(name for name, one in ALGORITHMS.items() if one is function).removesuffix("_custom")
        total = sum(value.high.bit_length() if width == VARYING else width for value, width, _ in fields)
        lines = [f"u8 packed_[{total // 8 + 9}]; struct packer p_ = {{packed_, 0}};"]
        for value, width, present in fields:
            put = self._put(value, width)
            lines.append(put if present is None else f"if ({numbers.is_set(self.number(present))}) {put}")
        rest = ", ".join(self.payload()) if isinstance(payload, ex.Frame) else "data, 0"
        lines.append(f"{word}(packed_, packed(&p_), {rest});")
        return CNumber(f"({{ {' '.join(lines)} }})", *result, U64)

    def payload(self) -> tuple[str, str]:
        """Return the address and the length of the payload."""
        off = self.use("off")
        return f"data + ({off} < size ? {off} : size)", f"({off} < size ? size - {off} : 0)"

    def _put(self, value: ex.Number, width: int) -> str:
        if width == VARYING:
            number = self.number(value)
            kind = Kind(max(192, number.kind.bits), False)
            return (
                f"{{ {kind.name} w_ = {convert(number, kind)}; u64 bits_ = {kind.name}_bits(w_); "
                f"if (bits_ > 1) put_words(&p_, w_.w, (u32)bits_ - 1); }}"
            )
        kind = modular(max(width, 1))
        if kind.bits == 64:
            masked = numbers.masked(self.number(value, max(width, 1)), (1 << width) - 1)
            return f"put(&p_, {convert(masked, U64)}, {width});"
        words = ", ".join(words_of(self.number(value), kind))
        return f"{{ const u64 w_[] = {{{words}}}; put_words(&p_, w_, {width}); }}"
