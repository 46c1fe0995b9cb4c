"""The generated Python of a pipeline as C: the same statements, with types."""

from __future__ import annotations

import ast
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soft_switch.cells import WideCells
from soft_switch.codegen.functions import Generated
from soft_switch.externs import METER_WORDS, DirectMeter, MeterArray, RegisterArray
from soft_switch.hashes import ALGORITHMS, VARYING, HashMemo, PackedHash
from soft_switch.native import numbers
from soft_switch.native.errors import CannotTranslateError
from soft_switch.native.numbers import U64, Kind, Number, constant, convert, kind_of, modular
from soft_switch.tables import GROUP, Results, Table

PARAMETERS = 3
"""Where the parameters of an action begin in a record."""
PORT_BITS = 32
"""How far the priority is shifted in what ``ingress`` returns; the port is below."""
_COUNTS = (0, (1 << 32) - 1)
_TIMES = (0, (1 << 63) - 1)
_ROUNDS = 6
_WIDEST = (-(1 << 62), 1 << 62)
_COMPARISONS = {"Eq": "==", "NotEq": "!=", "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">="}
_CODES = {"b": 1, "h": 2, "i": 4, "q": 8}
_MEMORY_BITS = (8, 16, 32)

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Request:
    """Something that Python does for a packet: ``kind``, what is fixed, and for each value its words and whether it is
    signed."""

    kind: str
    fixed: tuple[Any, ...]
    values: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Where the parameters are in a table's records: (first word, words, bits) of each position."""

    places: tuple[tuple[int, int, int], ...]
    stride: int


@dataclass(slots=True)
class Translated:
    """The C of a program, and what belongs to it.

    Attributes:
        source: the C, to be put after ``runtime.h``.
        cells: the objects of the generated code whose memory the C shares, by number.
        tables: the objects of the generated code that are results of tables, by number.
        requests: what it asks Python for, by number.
        rid_bytes: how many bytes egress_rid has in a packet's state; None where it is not in it.
        priority_bytes: likewise for priority.
        header_bytes: how much longer than the packet that came in one may be that leaves, at most.
    """

    source: str = ""
    cells: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    rid_bytes: int | None = None
    priority_bytes: int | None = None
    header_bytes: int = 0


_REMEMBERED: dict[tuple[object, ...], Translated] = {}
"""A process often loads one program many times."""
_MOST_REMEMBERED = 64


def translate(generated: Generated, externs: Mapping[str, Any]) -> Translated:
    """The C of a program. ``externs``: what the generated Python calls, by name.

    Raises:
        CannotTranslateError: something in it has no translation.
    """
    key = (generated.source, *((name, _shape(thing)) for name, thing in generated.objects.items()))
    known = _REMEMBERED.get(key)
    if known is None:
        try:
            known = _Module(generated, externs).translate()
        except RecursionError as error:
            raise CannotTranslateError("expressions that are nested too deeply") from error
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


class _Module:
    """All functions of a program: they share the variables that a packet takes from ingress to egress."""

    def __init__(self, generated: Generated, externs: Mapping[str, Any]) -> None:
        self.generated = generated
        self.objects = generated.objects
        self.extern_names = {id(thing): name for name, thing in externs.items()}
        self.register_widths = {id(r.values): r.width for r in externs.values() if isinstance(r, RegisterArray)}
        self.result = Translated()
        self.intervals: dict[str, Interval] = {}
        self.spans: dict[str, int] = {}
        self.records: dict[str, int] = {}
        self.entries: set[str] = set()
        self.widths: set[int] = set()
        self.changed = False
        self.settling = 0
        self.layouts: list[tuple[Table, RecordLayout]] = []

    def translate(self) -> Translated:
        functions = {f.name: f for f in ast.parse(self.generated.source).body if isinstance(f, ast.FunctionDef)}
        order = [name for name in ("parse_again", "ingress", "egress") if name in functions]
        texts: list[list[str]] = []
        while True:
            self.changed = False
            self.result.requests.clear()
            self.result.header_bytes = 0
            texts = [_Function(self, functions[name]).translate() for name in order]
            self.settling += 1
            if not self.changed:
                break
        body = "\n".join(line for lines in texts for line in lines)
        widths = sorted({n for n in range(3, 81) if f"w{n}" in body or f"w{n}" in self._state()})
        wide = [f"WIDE({n})" for n in widths]
        bound = f"#define HEADER_BYTES {self.result.header_bytes}"
        self.result.source = "\n".join([*wide, "", bound, "", self._state(), "", body, ""])
        self.result.rid_bytes = self._place("rid", self.generated.rid_at)
        self.result.priority_bytes = self._place("priority", self.generated.priority_at)
        self.result.source += "u64 pipeline_state_bytes(void) { return sizeof(struct carried); }\n"
        return self.result

    # ---- variables ----

    def widen(self, name: str, low: int, high: int) -> None:
        """A variable takes values of an interval."""
        fixed = self.generated.limits.get(name)
        if fixed is not None:
            self.intervals.setdefault(name, fixed)
            return
        known = self.intervals.get(name, (0, 0))
        wider = (min(known[0], low), max(known[1], high))
        if wider != known or name not in self.intervals:
            # A variable that grows in a loop would never come to rest.
            if self.settling > _ROUNDS:
                wider = (_settled(known[0], wider[0], _WIDEST[0]), _settled(known[1], wider[1], _WIDEST[1]))
            self.changed = self.changed or wider != known or name not in self.intervals
            self.intervals[name] = wider

    def kind(self, name: str) -> Kind:
        """The type of a variable."""
        return kind_of(*self.interval(name))

    def interval(self, name: str) -> Interval:
        """What a variable may hold."""
        if name == "n":
            return _COUNTS
        fixed = self.generated.limits.get(name)
        return fixed if fixed is not None else self.intervals.get(name, (0, 0))

    # ---- what the code refers to ----

    def table(self, name: str, results: Results) -> int:
        """The number of a table, by the name of its results."""
        if name not in self.result.tables:
            self.result.tables.append(name)
            self.layouts.append((results.table, layout_of(results.table)))
        return self.result.tables.index(name)

    def cell(self, name: str) -> int:
        """The number of an array of cells, or of the meters that an object belongs to, by its name."""
        if name not in self.result.cells:
            self.result.cells.append(name)
        return self.result.cells.index(name)

    def request(self, request: Request) -> int:
        """The number of a request."""
        self.result.requests.append(request)
        return len(self.result.requests) - 1

    # ---- the state of a packet between ingress and egress ----

    def carried(self) -> list[str]:
        """The variables in it; the packet's bytes are beside it."""
        return [name for name in self.generated.carried if name != "data"]

    def memory_type(self, name: str) -> str:
        """The type of a variable in the state."""
        low, high = self.interval(name)
        if low >= 0:
            for bits in _MEMORY_BITS:
                if high < 1 << bits:
                    return f"u{bits}"
        return self.kind(name).name

    def _state(self) -> str:
        lines = ["struct carried {"]
        sized = []
        for name in self.carried():
            if name in self.spans:
                sized.append((4, f"    u32 v_{name}, v_{name}_n;"))
            else:
                sized.append((self._bytes(name), f"    {self.memory_type(name)} v_{name};"))
        lines += [line for _, line in sorted(sized, key=lambda item: -item[0])]
        if not sized:
            lines.append("    u8 nothing;")
        return "\n".join([*lines, "};"])

    def _bytes(self, name: str) -> int:
        text = self.memory_type(name)
        return int(text[1:]) * 8 if text[0] == "w" else int(text[1:]) // 8

    def _place(self, word: str, position: int | None) -> int | None:
        """Has the C say where a variable is in the state; how many bytes it has there."""
        at, size = "0", None
        if position is not None:
            name = self.generated.carried[position]
            size, at = self._bytes(name), f"__builtin_offsetof(struct carried, v_{name})"
        self.result.source += f"u64 pipeline_{word}_at(void) {{ return {at}; }}\n"
        return size


def _settled(known: int, wished: int, bound: int) -> int:
    """The end of an interval that goes on growing: at once as far as it can come."""
    if known == wished or abs(known) >= abs(bound):
        return known
    return bound


def layout_of(table: Table) -> RecordLayout:
    """Where machine code finds the parameters of a table's actions."""
    positions: list[int] = []
    for _, widths in table.actions.values():
        for index, width in enumerate(widths):
            if index == len(positions):
                positions.append(1)
            positions[index] = max(positions[index], width)
    places, at = [], PARAMETERS
    for width in positions:
        words = numbers.modular(width).bits // 64
        places.append((at, words, width))
        at += words
    return RecordLayout(tuple(places), max(at, PARAMETERS + 2))


class _Function:
    """One function: lines of C out of its syntax tree."""

    def __init__(self, module: _Module, definition: ast.FunctionDef) -> None:
        self.module = module
        self.definition = definition
        self.name = definition.name
        self.locals: dict[str, None] = {}
        self.local_spans: dict[str, None] = {}
        self.local_records: dict[str, None] = {}
        self.local_entries: dict[str, None] = {}
        self.buffers: dict[str, int] = {}
        self.given: dict[str, Interval] = {"now_ns": _TIMES}
        if self.name == "egress":
            self.given |= {"enqueued_ns": _TIMES, "dequeued_ns": _TIMES, "enq_qdepth": _COUNTS, "deq_qdepth": _COUNTS}
            del self.given["now_ns"]
        else:
            self.given["port"] = _COUNTS
        self.kept_words = 0

    def translate(self) -> list[str]:
        body = self._block(self.definition.body, 1)
        head = {
            "ingress": "i64 pipeline_ingress(struct pipeline *s, u64 port, const u8 *data, u64 size, u64 now_ns, "
            "const u64 *again)",
            "parse_again": "static i64 parse_again(struct pipeline *s, u64 port, const u8 *data, u64 size, u64 now_ns, "
            "const u64 *kept)",
            "egress": "i64 pipeline_egress(struct pipeline *s, const u8 *state, const u8 *data, u64 size, u64 port, "
            "u64 enqueued_ns, u64 dequeued_ns, u64 depths)",
        }[self.name]
        lines = [head, "{"]
        parameters = {"ingress": "port now_ns again", "parse_again": "port now_ns kept", "egress": "port"}[self.name]
        lines += [f"    (void){name};" for name in ("s", "data", *parameters.split())]
        lines.append("    u64 n = size; (void)n;")
        for name, kind in [(name, self.module.kind(name)) for name in self.locals]:
            lines.append(f"    {kind.name} v_{name} = {'{{0}}' if kind.is_wide else '0'};")
            lines.append(f"    (void)v_{name};")
        for name in self.local_spans:
            lines.append(f"    const u8 *v_{name} = data; u64 v_{name}_n = 0; (void)v_{name}; (void)v_{name}_n;")
        for name, size in self.buffers.items():
            lines.append(f"    u8 b_{name}[{max(size, 1)}];")
        for name in self.local_records:
            lines.append(f"    const u64 *v_{name} = 0; (void)v_{name};")
        for name in self.local_entries:
            lines.append(f"    u64 *v_{name} = 0; (void)v_{name};")
        if self._uses("cut_data"):
            lines.append("    u64 answer[2] = {0}; (void)answer;")
        if self.name != "parse_again" and self._uses("kept"):
            lines.append(f"    u64 kept[{max(self.kept_words, 1)}] = {{0}};")
        if self.name == "egress":
            lines += [
                "    u64 enq_qdepth = depths & 0xFFFFFFFFu, deq_qdepth = depths >> 32;",
                "    (void)state; (void)enqueued_ns; (void)dequeued_ns; (void)enq_qdepth; (void)deq_qdepth;",
                "    if (size + HEADER_BYTES > s->frame_bytes) return TOO_LONG;",
            ]
        return [*lines, *body, "    return DROPPED;", "}", ""]

    def _uses(self, name: str) -> bool:
        return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(self.definition))

    # ---- statements ----

    def _block(self, statements: Sequence[ast.stmt], depth: int) -> list[str]:
        lines: list[str] = []
        pad = "    " * depth
        for statement in statements:
            lines += [pad + line for line in self._statement(statement)]
        return lines

    def _statement(self, node: ast.stmt) -> list[str]:
        if isinstance(node, ast.Assign):
            return self._assign(node)
        if isinstance(node, ast.AugAssign):
            return self._add_to(node)
        if isinstance(node, ast.If):
            lines = [f"if ({self.condition(node.test)}) {{", *self._block(node.body, 1)]
            orelse = node.orelse
            if orelse:
                lines += ["} else {", *self._block(orelse, 1)]
            return [*lines, "}"]
        if isinstance(node, ast.While):
            return [f"while ({self.condition(node.test)}) {{", *self._block(node.body, 1), "}"]
        if isinstance(node, ast.Break):
            return ["break;"]
        if isinstance(node, ast.Pass):
            return [";"]
        if isinstance(node, ast.Return):
            return self._return(node.value)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return self._extern(node.value)
        raise CannotTranslateError(ast.unparse(node))

    def _assign(self, node: ast.Assign) -> list[str]:
        if len(node.targets) > 1:
            if isinstance(node.value, ast.Constant) and node.value.value == 0:
                for target in node.targets:
                    assert isinstance(target, ast.Name)
                    self._zero(target.id)
                return []
            raise CannotTranslateError(ast.unparse(node))
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple):
            return self._unpack([self._name(item) for item in target.elts], value)
        if isinstance(target, ast.Subscript):
            return self._write_cell(target, value)
        name = self._name(target)
        if name == "kept":
            return self._keep(value)
        if isinstance(value, ast.Constant) and value.value == 0 and type(value.value) is int and self._is_special(name):
            return [f"v_{name} = data; v_{name}_n = 0;"] if name in self.module.spans else []
        if isinstance(value, ast.Subscript):
            special = self._assign_subscript(name, value)
            if special is not None:
                return special
        if isinstance(value, ast.Call) and self._extern_name(value) == "cut":
            self._span(name)
            lines = self._ask("cut", (), [value.args[0], ast.Name(":size")], "if (args[0] > size) return FAULT;")
            return [*lines, f"v_{name} = data; v_{name}_n = answer[0];"]
        if _is_bytes(value) or (isinstance(value, ast.Name) and value.id in self.module.spans):
            return self._assign_bytes(name, value)
        if isinstance(value, ast.Attribute) and value.attr == "cells" and isinstance(value.value, ast.Subscript):
            self.module.entries.add(name)
            self.local_entries[name] = None
            return [f"v_{name} = (u64 *)(uintptr_t)v_{self._name(value.value.value)}[2];"]
        whole, limit = _limited(value)
        if isinstance(whole, ast.BinOp) and isinstance(whole.op, ast.Add) and self._parts(whole) is not None:
            self._span(name)
            return [*self._compose(whole, limit), f"v_{name} = s->frame; v_{name}_n = at; }}"]
        if isinstance(value, ast.Call) and _method(value) == "from_bytes":
            return self._set(name, self._from_bytes(value, self.module.generated.limits.get(name)))
        return self._set(name, self.number(value))

    def _is_special(self, name: str) -> bool:
        return name in self.module.spans or name in self.module.records or name in self.module.entries

    def _zero(self, name: str) -> None:
        # The first use tells what it is; all variables begin with 0.
        if name not in ("data", "n") and not self._is_special(name):
            self._local(name)

    @staticmethod
    def _name(node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise CannotTranslateError(ast.unparse(node))
        return node.id

    def _local(self, name: str) -> None:
        if name not in self.given and name not in ("n", "data"):
            self.locals[name] = None

    def _set(self, name: str, number: Number) -> list[str]:
        if name == "n":
            return []
        self.module.widen(name, number.low, number.high)
        self._local(name)
        return [f"v_{name} = {convert(number, self.module.kind(name))};"]

    def _span(self, name: str, size: int = 0) -> None:
        known = self.module.spans.get(name, -1)
        if size > known:
            self.module.spans[name] = size
            self.module.changed = True
        self.locals.pop(name, None)
        self.local_spans[name] = None

    def _assign_subscript(self, name: str, value: ast.Subscript) -> list[str] | None:
        module, base = self.module, value.value
        if isinstance(base, ast.Name):
            thing = module.objects.get(base.id)
            if isinstance(thing, Results):
                number = module.table(base.id, thing)
                module.records[name] = number
                self.local_records[name] = None
                self.locals.pop(name, None)
                return self._look_up(name, number, value.slice)
        if isinstance(base, ast.Subscript) and isinstance(base.value, ast.Name) and base.value.id in module.records:
            # r[3][hash % len(r[3])]
            index = value.slice
            if isinstance(index, ast.BinOp) and isinstance(index.op, ast.Mod):
                number = module.records[name]
                hashed = convert(self.number(index.left), U64)
                return [f"v_{name} = choose(s->tables + {number}, v_{name}, {hashed});"]
        return None

    def _look_up(self, name: str, number: int, key: ast.expr) -> list[str]:
        table = self.module.layouts[number][0]
        if not table.key_widths:
            return [f"v_{name} = s->tables[{number}].records + s->tables[{number}].miss * s->tables[{number}].stride;"]
        parts = key.elts if isinstance(key, ast.Tuple) else [key]
        words: list[str] = []
        for part, width in zip(parts, table.key_widths, strict=True):
            words += _words(self.number(part), modular(width))
        values = ", ".join(words)
        return [
            f"{{ const u64 key[] = {{{values}}};",
            f"  v_{name} = look_up(s->tables + {number}, key, {len(words)}); }}",
        ]

    def _assign_bytes(self, name: str, value: ast.expr) -> list[str]:
        if isinstance(value, ast.Constant):
            self._span(name)
            return [f"v_{name}_n = 0;"]
        if isinstance(value, ast.Name):
            self._span(name, self.module.spans[value.id])
            return [f"v_{name} = v_{value.id}; v_{name}_n = v_{value.id}_n;"]
        if isinstance(value, ast.Subscript):
            begin, end = self._slice(value)
            assert isinstance(value.slice, ast.Slice)
            distance = _distance(value.slice)
            if distance is None:
                raise CannotTranslateError(ast.unparse(value))
            self._span(name, distance)
            return [
                f"v_{name} = data + {convert(begin, U64)};",
                f"v_{name}_n = {convert(end, U64)} - {convert(begin, U64)};",
            ]
        assert isinstance(value, ast.Call)
        assert isinstance(value.func, ast.Attribute)
        number, size = self.number(value.func.value), self.number(value.args[0])
        capacity = size.const
        lines: list[str] = []
        if capacity is None:
            capacity = numbers.modular(number.high.bit_length()).bits // 8
            length = convert(size, U64)
            lines.append(f"if ({length} > {capacity}u) return FAULT;")
        else:
            length = str(capacity)
        self._span(name, capacity)
        self.buffers[name] = max(capacity, self.buffers.get(name, 0))
        kind = kind_of(0, max(number.high, (1 << 8 * capacity) - 1) if size.const is not None else number.high)
        if kind.is_wide:
            kind = Kind(max(kind.bits, number.kind.bits), False)
            store = f"{kind.name}_store"
        elif size.const is None:
            kind, store = Kind(192, False), "w3_store"
        else:
            store = "store" if kind.bits == 64 else "store_128"
        lines.append(f"{store}(b_{name}, {length}, {convert(number, kind)});")
        return [*lines, f"v_{name} = b_{name}; v_{name}_n = {length};"]

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
        size = _distance(source.slice)
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

    def _unpack(self, names: list[str], value: ast.expr) -> list[str]:
        if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id == "packet":
            return self._load_state(names)
        if isinstance(value, ast.Name) and value.id == "again":
            lines = []
            for index, name in enumerate(names):
                low, high = self.module.interval(name)
                if low < 0 or high >> 64:
                    raise CannotTranslateError(f"{name}, kept for a packet that comes in again")
                lines += self._set(name, Number(f"again[{index}]", low, high, U64))
            return lines
        if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name)):
            raise CannotTranslateError(ast.unparse(value))
        if self._extern_name(value) == "cut_end":
            self._span(names[0])
            lines = self._ask("cut_end", (), [value.args[0], *value.args[2:]], "if (args[0] > size) return FAULT;")
            lines.append(f"v_{names[0]} = data; v_{names[0]}_n = answer[0];")
            return [*lines, *self._set(names[1], Number("answer[1]", *_COUNTS, U64))]
        unpacker = getattr(self.module.objects.get(value.func.id), "__self__", None)
        if not isinstance(unpacker, struct.Struct):
            raise CannotTranslateError(ast.unparse(value))
        begin = convert(self.number(value.args[1]), U64)
        lines, at, index, count = [], 0, 0, ""
        for code in unpacker.format[1:]:
            if code.isdigit():
                count += code
            elif code == "x":
                at += int(count or 1)
                count = ""
            else:
                size = _CODES[code.lower()]
                text = f"load(data + {begin} + {at}, {size})"
                high = (1 << 8 * size) - 1
                number = Number(text, 0, high, U64)
                if code.islower():
                    number = Number(f"((i64)(i{8 * size})({text}))", -(high + 1) // 2, high // 2, Kind(64, True))
                lines += self._set(names[index], number)
                index += 1
                at += size
        return lines

    def _load_state(self, names: Sequence[str]) -> list[str]:
        lines = ["struct carried c; memcpy(&c, state, sizeof c);"]
        for name in names:
            if name == "data":
                continue
            if name == "n":
                lines.append("n = c.v_n;")
            elif name in self.module.spans:
                self._span(name)
                most = self.module.spans[name]
                lines.append(
                    f"if (c.v_{name} > size || c.v_{name}_n > size - c.v_{name} || c.v_{name}_n > {most}) "
                    f"return FAULT; v_{name} = data + c.v_{name}; v_{name}_n = c.v_{name}_n;"
                )
            else:
                self._local(name)
                lines.append(f"v_{name} = c.v_{name};")
        return lines

    def _store_state(self, node: ast.expr) -> list[str]:
        """The state of a packet, a tuple of values in the order of what is carried, into the pipeline's buffer."""
        if not isinstance(node, ast.Tuple):
            raise CannotTranslateError(ast.unparse(node))
        lines = ["{ struct carried c; memset(&c, 0, sizeof c);"]
        for name, value in zip(self.module.generated.carried, node.elts, strict=True):
            if name == "data":
                continue
            if name in self.module.spans:
                if isinstance(value, ast.Name):
                    lines.append(f"c.v_{name} = (u32)(v_{value.id} - data); c.v_{name}_n = (u32)v_{value.id}_n;")
                continue
            number = self.number(value)
            self.module.widen(name, number.low, number.high)
            text = convert(number, self.module.kind(name))
            memory = self.module.memory_type(name)
            lines.append(f"c.v_{name} = {text if memory[0] == 'w' else f'({memory}){text}'};")
        return [*lines, "memcpy(s->state, &c, sizeof c); }"]

    def _keep(self, value: ast.expr) -> list[str]:
        if not isinstance(value, ast.Tuple):
            raise CannotTranslateError(ast.unparse(value))
        lines = []
        self.kept_words = max(self.kept_words, len(value.elts))
        for index, part in enumerate(value.elts):
            number = self.number(part)
            if number.low < 0 or number.high >> 64:
                raise CannotTranslateError(f"{ast.unparse(part)}, kept for a copy")
            lines.append(f"kept[{index}] = {convert(number, U64)};")
        return lines

    def _cells(self, node: ast.expr) -> tuple[int, int, int] | None:
        """(number, cells, words of each) of an array of cells."""
        thing = self.module.objects.get(node.id) if isinstance(node, ast.Name) else None
        if not isinstance(thing, array | WideCells):
            return None
        assert isinstance(node, ast.Name)
        return self.module.cell(node.id), len(thing), thing.words if isinstance(thing, WideCells) else 1

    def _index(self, node: ast.expr, size: int) -> tuple[str, list[str]]:
        number = self.number(node)
        text = convert(number, U64)
        inside = number.low >= 0 and number.high < size
        return text, [] if inside else [f"if ({text} >= {size}u) return FAULT;"]

    def _write_cell(self, target: ast.Subscript, value: ast.expr) -> list[str]:
        if isinstance(target.value, ast.Attribute) and isinstance(target.value.value, ast.Subscript):
            # r[2].cells[k]
            record = self._name(target.value.value.value)
            at = _constant(target.slice)
            return [f"((u64 *)(uintptr_t)v_{record}[2])[{at}] = {convert(self.number(value), U64)};"]
        cells = self._cells(target.value)
        if cells is None:
            raise CannotTranslateError(ast.unparse(target))
        array_number, size, words = cells
        index, lines = self._index(target.slice, size)
        number = self.number(value)
        parts = _words(number, Kind(64 * words, False))
        for word, part in enumerate(parts):
            lines.append(f"s->cells[{array_number}][{index} * {words} + {word}] = {part};")
        return lines

    def _add_to(self, node: ast.AugAssign) -> list[str]:
        target = node.target
        if not isinstance(target, ast.Subscript) or not isinstance(node.op, ast.Add):
            raise CannotTranslateError(ast.unparse(node))
        value = convert(self.number(node.value), U64)
        if isinstance(target.value, ast.Name) and target.value.id in self.module.entries:
            return [f"v_{target.value.id}[{ast.unparse(target.slice)}] += {value};"]
        cells = self._cells(target.value)
        if cells is None or cells[2] != 1:
            raise CannotTranslateError(ast.unparse(node))
        index, lines = self._index(target.slice, cells[1])
        return [*lines, f"s->cells[{cells[0]}][{index}] += {value};"]

    # ---- the end of a packet's way ----

    def _return(self, value: ast.expr | None) -> list[str]:
        if value is None or (isinstance(value, ast.Constant) and value.value is None):
            return ["return DROPPED;"]
        if self.name == "parse_again":
            return [*self._store_state(value), "return 0;"]
        if self.name == "ingress":
            assert isinstance(value, ast.Call)
            assert isinstance(value.args[1], ast.Tuple)
            port, priority, _, state = value.args[1].elts
            texts = [self.number(port), self.number(priority)]
            if texts[0].low < 0 or texts[0].high >> PORT_BITS or texts[1].low < 0 or texts[1].high >> 16:
                raise CannotTranslateError("ports or priorities of so many bits")
            lines = self._store_state(state)
            code = f"{convert(texts[0], U64)} | {convert(texts[1], U64)} << {PORT_BITS}"
            return [*lines, f"return (i64)({code});"]
        if isinstance(value, ast.Name) and value.id in self.module.spans:
            return [f"return (i64)v_{value.id}_n;"]
        return [*self._compose(*_limited(value)), "return (i64)at; }"]

    def _parts(self, node: ast.expr) -> list[tuple[str, str]] | None:
        """(address, length) of each part of a concatenation."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._parts(node.left), self._parts(node.right)
            return None if left is None or right is None else left + right
        if isinstance(node, ast.Name) and node.id in self.module.spans:
            return [(f"v_{node.id}", f"v_{node.id}_n")]
        if isinstance(node, ast.Subscript) and _is_data(node.value) and isinstance(node.slice, ast.Slice):
            assert node.slice.lower is not None
            off = convert(self.number(node.slice.lower), U64)
            return [(f"data + ({off} < size ? {off} : size)", f"({off} < size ? size - {off} : 0)")]
        return None

    def _compose(self, node: ast.expr, limit: ast.expr | None) -> list[str]:
        """Opens a block in which ``at`` is the length of the frame that was put together."""
        parts = self._parts(node)
        if parts is None:
            raise CannotTranslateError(ast.unparse(node))
        lines = ["{ u64 at = 0;"]
        for address, length in parts:
            lines.append(f"memcpy(s->frame + at, {address}, {length}); at += {length};")
        if limit is not None:
            # t - 1 if t else None
            if not isinstance(limit, ast.IfExp):
                raise CannotTranslateError(ast.unparse(limit))
            most = convert(self.number(limit.body), U64)
            lines.append(f"if ({self.condition(limit.test)} && at > {most}) at = {most};")
        known = sum(self.module.spans[address[2:]] for address, _ in parts if address[2:] in self.module.spans)
        self.module.result.header_bytes = max(self.module.result.header_bytes, known)
        return lines

    # ---- what Python does ----

    def _extern(self, node: ast.Call) -> list[str]:
        what = self._extern_name(node)
        if what == "digest":
            name, values = node.args
            assert isinstance(name, ast.Constant)
            assert isinstance(values, ast.Tuple)
            return self._ask("digest", (name.value,), values.elts)
        if what == "log":
            text = node.args[0]
            assert isinstance(text, ast.Constant)
            return self._ask("log", (text.value,), node.args[1:])
        if what == "fail":
            return self._ask("fail", tuple(a.value for a in node.args if isinstance(a, ast.Constant)), ())
        if what in ("clone", "multicast"):
            state = node.args[3]
            data_length = ":size"
            if isinstance(state, ast.Call):
                lines = ["if (parse_again(s, port, v_cut_data, v_cut_data_n, now_ns, kept) < 0) return FAULT;"]
            else:
                lines = self._store_state(state)
            if what == "clone":
                data_length = "cut_data:length"
            return lines + self._ask(what, (), [*node.args[:3], ast.Name(data_length)])
        if what == "again":
            kept = node.args[2]
            assert isinstance(kept, ast.Tuple)
            frame = node.args[1]
            assert isinstance(frame, ast.Name)
            own = "data" if frame.id == "data" else "frame"
            length = ast.Name(":size") if own == "data" else ast.Name(f"{frame.id}:length")
            noted: list[ast.expr] = [node.args[0], length, *kept.elts[:2]]
            noted += [
                ast.Subscript(ast.Name("kept"), ast.Constant(index)) for index in range(self.module.generated.preserved)
            ]
            return self._ask("again", (own,), noted)
        raise CannotTranslateError(f"a call of {ast.unparse(node.func)}")

    def _extern_name(self, node: ast.Call) -> str | None:
        if not isinstance(node.func, ast.Name):
            return None
        return self.module.extern_names.get(id(self.module.objects.get(node.func.id)))

    def _ask(
        self, kind: str, fixed: tuple[Any, ...], values: Sequence[ast.expr], check: str | None = None
    ) -> list[str]:
        """A call of Python. With ``check``, which is made of it, the answer is in ``answer``."""
        shapes, words = [], []
        for value in values:
            number = self.number(value)
            exact = kind_of(number.low, number.high)
            shapes.append((exact.bits // 64, exact.signed))
            words += _words(number, exact)
        request = self.module.request(Request(kind, fixed, tuple(shapes)))
        texts = ", ".join(words) or "0"
        return [
            f"{{ u64 args[] = {{{texts}}};",
            f"  if (s->call(s->handle, {request}, args)) return FAILED;",
            *([] if check is None else [f"  {check} memcpy(answer, args, 16);"]),
            "}",
        ]

    # ---- expressions ----

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
            words += _words(number, exact)
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
            return Number("n", *_COUNTS, U64)
        if name == ":size":
            return Number("size", *_COUNTS, U64)
        if name.endswith(":length"):
            return Number(f"v_{name.removesuffix(':length')}_n", *_COUNTS, U64)
        if self._is_special(name):
            raise CannotTranslateError(f"{name} as a number")
        if self.name == "egress" and name == "now_ns":
            return Number("dequeued_ns", *_TIMES, U64)
        self._local(name)
        low, high = self.module.interval(name)
        return Number(f"v_{name}", low, high, self.module.kind(name))

    def _binary(self, node: ast.BinOp, modulo: int | None) -> Number:
        word = type(node.op).__name__
        if isinstance(node.op, ast.BitAnd):
            for mask, other in ((node.right, node.left), (node.left, node.right)):
                bits = _constant(mask)
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
            return Number("port", *_COUNTS, U64) if _constant(index) == 0 else Number("n", *_COUNTS, U64)
        if base.id == "kept":
            return Number(f"kept[{_constant(index)}]", 0, (1 << 64) - 1, U64)
        if base.id in self.module.records:
            return self._of_record(base.id, _constant(index))
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
        return _from_memory(cell, kind, high)

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
        return _from_memory(f"v_{name} + {at}", Kind(64 * words, False), (1 << width) - 1)

    def _call(self, node: ast.Call) -> Number:
        method = _method(node)
        if method == "from_bytes":
            return self._from_bytes(node, None)
        if method == "bit_length":
            assert isinstance(node.func, ast.Attribute)
            return numbers.bit_length(self.number(node.func.value))
        if not isinstance(node.func, ast.Name):
            raise CannotTranslateError(ast.unparse(node))
        if node.func.id == "len":
            return self._variable(":size" if _is_data(node.args[0]) else f"{self._name(node.args[0])}:length")
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
                text = f"{{ const u64 w_[] = {{{', '.join(_words(value, kind))}}}; put_words(&p_, w_, {width}); }}"
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


def _words(number: Number, kind: Kind) -> list[str]:
    """A number as 64-bit words, the least significant first."""
    text = convert(number, kind)
    if kind.bits == 64:
        return [text if not kind.signed else f"(u64){text}"]
    if kind.bits == 128:
        return [f"(u64){text}", f"(u64)((u128){text} >> 64)"]
    return [f"{text}.w[{index}]" for index in range(kind.bits // 64)]


def _from_memory(address: str, kind: Kind, high: int) -> Number:
    if kind.bits == 64:
        return Number(f"({address})[0]", 0, high, kind)
    if kind.bits == 128:
        return Number(f"((u128)({address})[1] << 64 | ({address})[0])", 0, high, kind)
    return Number(f"{kind.name}_of({address}, {kind.bits // 64}, 0)", 0, high, kind)


def _constant(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None


def _method(node: ast.expr) -> str | None:
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None


def _is_data(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "data"


def _limited(node: ast.expr) -> tuple[ast.expr, ast.expr | None]:
    """A frame, and how much of it is left where it was truncated."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and not _is_data(node.value):
        return node.value, node.slice.upper
    return node, None


def _is_bytes(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bytes)
    if isinstance(node, ast.Subscript):
        return _is_data(node.value) and isinstance(node.slice, ast.Slice)
    return _method(node) == "to_bytes"


def _distance(node: ast.Slice) -> int | None:
    """The number of bytes of a slice, where it does not depend on the packet."""
    ends = []
    for end in (node.lower, node.upper):
        if isinstance(end, ast.Constant) and isinstance(end.value, int):
            ends.append(("", end.value))
        elif isinstance(end, ast.Name):
            ends.append((end.id, 0))
        elif isinstance(end, ast.BinOp) and isinstance(end.op, ast.Add) and isinstance(end.left, ast.Name):
            number = _constant(end.right)
            if number is None:
                return None
            ends.append((end.left.id, number))
        else:
            return None
    return ends[1][1] - ends[0][1] if ends[0][0] == ends[1][0] else None
