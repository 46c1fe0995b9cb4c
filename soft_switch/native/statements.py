"""Statements of the generated Python as C."""

from __future__ import annotations

import ast
import struct
from collections.abc import Sequence
from typing import Any

from soft_switch.native import numbers
from soft_switch.native.errors import CannotTranslateError
from soft_switch.native.expressions import Expressions
from soft_switch.native.module import COUNTS, Request
from soft_switch.native.numbers import U64, Kind, Number, convert, kind_of, modular, words_of
from soft_switch.native.syntax import constant_of, distance, is_bytes, is_data, limited, method_of
from soft_switch.tables.table import Results

PORT_BITS = 32
"""How far the priority is shifted in what ``ingress`` returns; the port is below."""
_CODES = {"b": 1, "h": 2, "i": 4, "q": 8}


class Function(Expressions):
    """One function: lines of C out of its syntax tree."""

    def translate(self) -> list[str]:
        """The lines."""
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
        if is_bytes(value) or (isinstance(value, ast.Name) and value.id in self.module.spans):
            return self._assign_bytes(name, value)
        if isinstance(value, ast.Attribute) and value.attr == "cells" and isinstance(value.value, ast.Subscript):
            self.module.entries.add(name)
            self.local_entries[name] = None
            return [f"v_{name} = (u64 *)(uintptr_t)v_{self._name(value.value.value)}[2];"]
        whole, limit = limited(value)
        if isinstance(whole, ast.BinOp) and isinstance(whole.op, ast.Add) and self._parts(whole) is not None:
            self._span(name)
            return [*self._compose(whole, limit), f"v_{name} = s->frame; v_{name}_n = at; }}"]
        if isinstance(value, ast.Call) and method_of(value) == "from_bytes":
            return self._set(name, self._from_bytes(value, self.module.generated.limits.get(name)))
        return self._set(name, self.number(value))

    def _zero(self, name: str) -> None:
        # The first use tells what it is; all variables begin with 0.
        if name not in ("data", "n") and not self._is_special(name):
            self._local(name)

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
            words += words_of(self.number(part), modular(width))
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
            size = distance(value.slice)
            if size is None:
                raise CannotTranslateError(ast.unparse(value))
            self._span(name, size)
            return [
                f"v_{name} = data + {convert(begin, U64)};",
                f"v_{name}_n = {convert(end, U64)} - {convert(begin, U64)};",
            ]
        assert isinstance(value, ast.Call)
        assert isinstance(value.func, ast.Attribute)
        number, length_now = self.number(value.func.value), self.number(value.args[0])
        capacity = length_now.const
        lines: list[str] = []
        if capacity is None:
            capacity = numbers.modular(number.high.bit_length()).bits // 8
            length = convert(length_now, U64)
            lines.append(f"if ({length} > {capacity}u) return FAULT;")
        else:
            length = str(capacity)
        self._span(name, capacity)
        self.buffers[name] = max(capacity, self.buffers.get(name, 0))
        kind = kind_of(0, max(number.high, (1 << 8 * capacity) - 1) if length_now.const is not None else number.high)
        if kind.is_wide:
            kind = Kind(max(kind.bits, number.kind.bits), False)
            store = f"{kind.name}_store"
        elif length_now.const is None:
            kind, store = Kind(192, False), "w3_store"
        else:
            store = "store" if kind.bits == 64 else "store_128"
        lines.append(f"{store}(b_{name}, {length}, {convert(number, kind)});")
        return [*lines, f"v_{name} = b_{name}; v_{name}_n = {length};"]

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
            return [*lines, *self._set(names[1], Number("answer[1]", *COUNTS, U64))]
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

    def _index(self, node: ast.expr, size: int) -> tuple[str, list[str]]:
        number = self.number(node)
        text = convert(number, U64)
        inside = number.low >= 0 and number.high < size
        return text, [] if inside else [f"if ({text} >= {size}u) return FAULT;"]

    def _write_cell(self, target: ast.Subscript, value: ast.expr) -> list[str]:
        if isinstance(target.value, ast.Attribute) and isinstance(target.value.value, ast.Subscript):
            # r[2].cells[k]
            record = self._name(target.value.value.value)
            at = constant_of(target.slice)
            return [f"((u64 *)(uintptr_t)v_{record}[2])[{at}] = {convert(self.number(value), U64)};"]
        cells = self._cells(target.value)
        if cells is None:
            raise CannotTranslateError(ast.unparse(target))
        array_number, size, words = cells
        index, lines = self._index(target.slice, size)
        number = self.number(value)
        parts = words_of(number, Kind(64 * words, False))
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
        return [*self._compose(*limited(value)), "return (i64)at; }"]

    def _parts(self, node: ast.expr) -> list[tuple[str, str]] | None:
        """(address, length) of each part of a concatenation."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._parts(node.left), self._parts(node.right)
            return None if left is None or right is None else left + right
        if isinstance(node, ast.Name) and node.id in self.module.spans:
            return [(f"v_{node.id}", f"v_{node.id}_n")]
        if isinstance(node, ast.Subscript) and is_data(node.value) and isinstance(node.slice, ast.Slice):
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

    def _ask(
        self, kind: str, fixed: tuple[Any, ...], values: Sequence[ast.expr], check: str | None = None
    ) -> list[str]:
        """A call of Python. With ``check``, which is made of it, the answer is in ``answer``."""
        shapes, words = [], []
        for value in values:
            number = self.number(value)
            exact = kind_of(number.low, number.high)
            shapes.append((exact.bits // 64, exact.signed))
            words += words_of(number, exact)
        request = self.module.request(Request(kind, fixed, tuple(shapes)))
        texts = ", ".join(words) or "0"
        return [
            f"{{ u64 args[] = {{{texts}}};",
            f"  if (s->call(s->handle, {request}, args)) return FAILED;",
            *([] if check is None else [f"  {check} memcpy(answer, args, 16);"]),
            "}",
        ]
