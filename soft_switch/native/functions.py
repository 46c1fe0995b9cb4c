"""Prints functions as C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soft_switch.ir import arithmetic as ar
from soft_switch.ir import expressions as ex
from soft_switch.ir import statements as st
from soft_switch.ir.liveness import has_break
from soft_switch.ir.program import EGRESS, INGRESS, PARSE_AGAIN
from soft_switch.ir.variables import COUNTS, CUT, CUT_LENGTH, LENGTH, PAYLOAD
from soft_switch.native.errors import CannotTranslateError
from soft_switch.native.expressions import ExpressionPrinter
from soft_switch.native.module import Request
from soft_switch.native.numbers import U64, CNumber, Kind, convert, kind_of, modular, words_of
from soft_switch.tables.entry import LAST_HIT_AT

PORT_BITS = 32
"""Shift of the priority in the value that ``ingress`` returns; the port is in the lower bits."""
_PRIORITY_BITS = 16
_WORD_BITS = 64
_HEADS = {
    INGRESS: "i64 pipeline_ingress(struct pipeline *s, u64 v_port, const u8 *data, u64 size, u64 v_now_ns, "
    "const u64 *again)",
    PARSE_AGAIN: "static i64 parse_again(struct pipeline *s, u64 v_port, const u8 *data, u64 size, u64 v_now_ns, "
    "const u64 *kept)",
    EGRESS: "i64 pipeline_egress(struct pipeline *s, const u8 *state, const u8 *data, u64 size, u64 v_port, "
    "u64 v_enqueued_ns, u64 v_dequeued_ns, u64 depths)",
}


class FunctionPrinter(ExpressionPrinter):
    """Printer of one function."""

    _keeps = False

    def lines(self) -> list[str]:
        """Print the function in C."""
        load_state = self._load_state() if self.function.name == EGRESS else []
        body = self._block(self.function.body, 1)
        lines = [_HEADS[self.function.name], "{"]
        for name in self.used:
            lines.append(f"    {self._declaration(name)}")
        if self._keeps and self.function.name != PARSE_AGAIN:
            lines.append(f"    u64 kept[{max(self.module.generated.preserved, 1)}] = {{0}};")
        if self.function.name == EGRESS:
            lines.append("    u64 v_enq_qdepth = depths & 0xFFFFFFFFu, v_deq_qdepth = depths >> 32;")
            lines.append("    if (size + HEADER_BYTES > s->frame_bytes) return TOO_LONG;")
        return [*lines, *(f"    {line}" for line in load_state), *body, "    return DROPPED;", "}", ""]

    def _declaration(self, name: str) -> str:
        types = self.module.types
        if name in types.records:
            return f"const u64 *v_{name} = 0;"
        if name in types.octets:
            return f"const u8 *v_{name} = data; u64 v_{name}_n = 0; u8 b_{name}[{max(types.octets[name], 1)}];"
        kind = self.module.kind(name)
        return f"{kind.name} v_{name} = {'{{0}}' if kind.is_wide else '0'};"

    def _block(self, statements: Sequence[st.Stmt], depth: int) -> list[str]:
        lines: list[str] = []
        pad = "    " * depth
        for statement in statements:
            if isinstance(statement, st.Step):
                lines += [pad + line for line in self._step(statement)]
            elif isinstance(statement, st.If):
                lines += self._choice(statement.branches, statement.orelse, depth)
            elif isinstance(statement, st.Break):
                lines.append(f"{pad}break;")
            elif isinstance(statement, st.Loop):
                this = ex.Var(*self.module.types.numbers[statement.variable], statement.variable)
                parts = [st.Branch(ex.Compare("==", this, ar.constant(n)), body) for n, body in statement.parts.items()]
                lines += [
                    f"{pad}while ({self.use(this.name)} >= 0) {{",
                    *self._choice(parts, [], depth + 1),
                    f"{pad}}}",
                ]
            elif has_break(statement.body):
                body = self._block(statement.body, depth + 1)
                lines += [f"{pad}while (1) {{", *body, f"{pad}    break;", f"{pad}}}"]
            else:
                lines += self._block(statement.body, depth)
        return lines

    def _choice(self, branches: Sequence[st.Branch], orelse: Sequence[st.Stmt], depth: int) -> list[str]:
        pad, word = "    " * depth, ""
        lines: list[str] = []
        for branch in branches:
            lines += [f"{pad}{word}if ({self.condition(branch.condition)}) {{", *self._block(branch.body, depth + 1)]
            word = "} else "
        if orelse:
            lines += [f"{pad}}} else {{", *self._block(orelse, depth + 1)]
        return [*lines, f"{pad}}}"]

    def _step(self, step: st.Step) -> list[str]:
        match step:
            case st.Assign(target, value) | st.Perform(target, value):
                return [self._set(target, self.number(value))]
            case st.SetBytes(target, octets):
                return self._set_bytes(target, octets)
            case st.Extract():
                return self._extract(step)
            case st.LookUp(record, _, keys):
                return self._look_up(record, keys)
            case st.ChooseMember(record, hashed):
                table = self.module.table(self.module.types.records[record])
                variable = self.use(record)
                return [f"{variable} = choose(s->tables + {table}, {variable}, {self.word(hashed)});"]
            case st.Count(cells, index, amount):
                return self._write(cells, index, "+=", amount)
            case st.WriteCell(cells, index, value):
                return self._write(cells, index, "=", value)
            case st.CountHit(record):
                entry = self.entry(record)
                return [f"({entry})[0] += 1; ({entry})[1] += {self.use('n')};"]
            case st.NoteHit(record):
                return [f"({self.entry(record)})[{LAST_HIT_AT}] = {self.use('now_ns')};"]
            case st.Report(kind, _, fixed, values):
                return self._ask(kind, fixed, values)
            case st.Drop():
                return ["return DROPPED;"]
            case st.PassOn(_, _, port, priority, state):
                return self._pass_on(port, priority, state)
            case st.ReturnState(state):
                return [*self._store_state(state), "return 0;"]
            case st.Send(ex.BytesVar(name)):
                return [f"return (i64){self.use(name)}_n;"]
            case st.Send(ex.Frame() as frame):
                return [*self._compose(frame), "return (i64)at; }"]
        return self._copy(step)

    def _set(self, name: str, number: CNumber) -> str:
        return f"{self.use(name)} = {convert(number, self.module.kind(name))};"

    # ---- headers and bytes ----

    def _extract(self, step: st.Extract) -> list[str]:
        lines = []
        for run in step.runs():
            whole = ar.load(ar.add(step.begin, ar.constant(run.at)), run.size)
            lines += [
                self._set(one.variable, self.number(v)) for one, v in run.values(whole) if one.variable in step.wanted
            ]
        return lines

    def _set_bytes(self, target: str, value: ex.Bytes) -> list[str]:
        variable = self.use(target)
        match value:
            case ex.NoBytes():
                return [f"{variable}_n = 0;"]
            case ex.BytesVar(name):
                source = self.use(name)
                return [f"{variable} = {source}; {variable}_n = {source}_n;"]
            case ex.Slice(begin, _, size):
                return [f"{variable} = data + {self.word(begin)}; {variable}_n = {size};"]
            case ex.ToBytes(number, length):
                return self._store(target, self.number(number), self.number(length))
            case ex.Frame():
                return [*self._compose(value), f"{variable} = s->frame; {variable}_n = at; }}"]
        raise NotImplementedError(type(value).__name__)

    def _store(self, target: str, number: CNumber, length: CNumber) -> list[str]:
        """Store a number as bytes in the variable's buffer."""
        variable, capacity = self.use(target), self.module.types.octets[target]
        size = convert(length, U64)
        lines = [] if length.const is not None else [f"if ({size} > {capacity}u) return FAULT;"]
        kind = kind_of(0, max(number.high, (1 << 8 * capacity) - 1))
        if kind.is_wide or length.const is None:
            kind = Kind(max(192, kind.bits, number.kind.bits), False)
            store = f"{kind.name}_store"
        else:
            store = "store" if kind.bits == _WORD_BITS else "store_128"
        lines.append(f"{store}(b_{target}, {size}, {convert(number, kind)});")
        return [*lines, f"{variable} = b_{target}; {variable}_n = {size};"]

    def _compose(self, frame: ex.Frame) -> list[str]:
        """Open a block in which ``at`` is the length of the frame that was put together."""
        lines = ["{ u64 at = 0;"]
        headers = [(self.use(header.name), f"{self.use(header.name)}_n") for header in frame.headers]
        for address, length in (*headers, self.payload()):
            lines.append(f"memcpy(s->frame + at, {address}, {length}); at += {length};")
        if frame.limit is not None:
            limit = self.use(frame.limit.name)
            lines.append(f"if ({limit} && at > {limit} - 1) at = {limit} - 1;")
        most = sum(self.module.types.octets[header.name] for header in frame.headers)
        self.module.result.header_bytes = max(self.module.result.header_bytes, most)
        return lines

    # ---- tables and cells ----

    def _look_up(self, record: str, keys: Sequence[ex.Number]) -> list[str]:
        table = self.module.types.records[record]
        number, variable = self.module.table(table), self.use(record)
        if not table.key_widths:
            return [
                f"{variable} = s->tables[{number}].records + s->tables[{number}].miss * s->tables[{number}].stride;"
            ]
        words: list[str] = []
        for key, width in zip(keys, table.key_widths, strict=True):
            words += words_of(self.number(key), modular(width))
        return [
            f"{{ const u64 key[] = {{{', '.join(words)}}};",
            f"  {variable} = look_up(s->tables + {number}, key, {len(words)}); }}",
        ]

    def _write(self, name: str, at: ex.Number, sign: str, value: ex.Number) -> list[str]:
        cells, size, words = self.module.cells(name)
        index = self.number(at)
        text = convert(index, U64)
        lines = [] if index.low >= 0 and index.high < size else [f"if ({text} >= {size}u) return FAULT;"]
        for word, part in enumerate(words_of(self.number(value), Kind(_WORD_BITS * words, False))):
            lines.append(f"{cells}[{text} * {words} + {word}] {sign} {part};")
        return lines

    # ---- the state of a packet ----

    def _load_state(self) -> list[str]:
        lines = ["struct carried c; memcpy(&c, state, sizeof c);"]
        for name in self.module.generated.carried:
            if name == "data":
                continue
            variable = self.use(name)
            if name in self.module.types.numbers:
                lines.append(f"{variable} = c.v_{name};")
                continue
            most = self.module.types.octets[name]
            lines.append(
                f"if (c.v_{name} > size || c.v_{name}_n > size - c.v_{name} || c.v_{name}_n > {most}) return FAULT; "
                f"{variable} = data + c.v_{name}; {variable}_n = c.v_{name}_n;"
            )
        return lines

    def _store_state(self, state: ex.State) -> list[str]:
        """Store the state of a packet in the pipeline's buffer."""
        lines = ["{ struct carried c; memset(&c, 0, sizeof c);"]
        for name, value in zip(self.module.generated.carried, state, strict=True):
            if isinstance(value, ex.Number):
                text, memory = convert(self.number(value), self.module.kind(name)), self.module.memory_type(name)
                lines.append(f"c.v_{name} = {text if memory[0] == 'w' else f'({memory}){text}'};")
            elif name != "data":
                source = self.use(value.name)
                lines.append(f"c.v_{name} = (u32)({source} - data); c.v_{name}_n = (u32){source}_n;")
        return [*lines, "memcpy(s->state, &c, sizeof c); }"]

    def _pass_on(self, port: ex.Number, priority: ex.Number, state: ex.State) -> list[str]:
        if port.low < 0 or port.high >> PORT_BITS or priority.low < 0 or priority.high >> _PRIORITY_BITS:
            raise CannotTranslateError("a port of more than 32 bits or a priority of more than 16")
        code = f"{self.word(port)} | {self.word(priority)} << {PORT_BITS}"
        return [*self._store_state(state), f"return (i64)({code});"]

    # ---- copies and what else is asked of Python ----

    def _copy(self, step: st.Step) -> list[str]:
        cut_size = ex.Length(*COUNTS, CUT)
        match step:
            case st.Keep(values):
                return self._keep(values)
            case st.TakeAlong(targets):
                return self._take_along(targets)
            case st.CloneIngress(_, _, session, priority):
                self._keeps = True
                return [
                    *self._ask("cut", (), (session, ex.Length(*COUNTS, "data")), self._take_cut()),
                    f"if (parse_again(s, v_port, v_{CUT}, v_{CUT}_n, v_now_ns, kept) < 0) return FAULT;",
                    *self._ask("clone", (), (session, priority, cut_size, cut_size)),
                ]
            case st.CloneEgress(_, _, session, priority, length, state):
                cut = [*self._take_cut(), self._set(CUT_LENGTH.name, CNumber("args[1]", *COUNTS, U64))]
                return [
                    *self._ask("cut_end", (), (session, PAYLOAD, length), cut),
                    *self._store_state(state),
                    *self._ask("clone", (), (session, priority, CUT_LENGTH, cut_size)),
                ]
            case st.Multicast(_, group, priority, state):
                values = (group, priority, LENGTH, ex.Length(*COUNTS, "data"))
                return [*self._store_state(state), *self._ask("multicast", (), values)]
            case st.ComeAgain(_, port, packet, kind, rounds):
                self._keeps = True
                kept = [ex.Kept(0, (1 << _WORD_BITS) - 1, i) for i in range(self.module.generated.preserved)]
                values = (port, ex.Length(*COUNTS, packet), ar.constant(kind), ar.add(rounds, ar.constant(1)), *kept)
                return self._ask("again", (packet,), values)
        raise NotImplementedError(type(step).__name__)

    def _take_cut(self) -> list[str]:
        cut = self.use(CUT)
        return ["if (args[0] > size) return FAULT;", f"{cut} = data; {cut}_n = args[0];"]

    def _keep(self, values: Sequence[ex.Number]) -> list[str]:
        self._keeps = True
        if any(value.low < 0 or value.high >> _WORD_BITS for value in values):
            raise CannotTranslateError("a field of a copy that is signed or has more than 64 bits")
        return [f"kept[{position}] = {self.word(value)};" for position, value in enumerate(values)]

    def _take_along(self, targets: Sequence[str]) -> list[str]:
        lines = []
        for position, name in enumerate(targets):
            low, high = self.module.types.numbers[name]
            if low < 0 or high >> _WORD_BITS:
                raise CannotTranslateError(f"{name}, kept for a packet that re-enters")
            lines.append(self._set(name, CNumber(f"again[{position}]", low, high, U64)))
        return lines

    def _ask(
        self, kind: str, fixed: tuple[Any, ...], values: Sequence[ex.Number], answer: Sequence[str] = ()
    ) -> list[str]:
        """Call Python. The lines ``answer`` find its results in ``args``."""
        shapes, words = self.shaped(values)
        request = self.module.request(Request(kind, fixed, shapes))
        return [
            f"{{ u64 args[] = {{{', '.join(words) or '0'}}};",
            f"  if (s->call(s->handle, {request}, args)) return FAILED;",
            *(f"  {line}" for line in answer),
            "}",
        ]
