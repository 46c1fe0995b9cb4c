"""Prints generated functions as Python."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from soft_switch.ir import arithmetic as ar
from soft_switch.ir import expressions as ex
from soft_switch.ir import statements as st
from soft_switch.ir.liveness import has_break
from soft_switch.ir.program import EGRESS, INGRESS, PARSE_AGAIN, Function, Generated
from soft_switch.tables.entry import LAST_HIT_AT

_CHOICE, _OR, _AND, _NOT, _COMPARE, _PRODUCT, _SIGN, _ATOM = 1, 2, 3, 4, 5, 11, 12, 13
"""Precedence of operators; an operand that binds less than its operator allows is put in parentheses."""
_BINARY: Final = {"|": 6, "^": 7, "&": 8, "<<": 9, ">>": 9, "+": 10, "-": 10, "*": 11, "//": 11, "%": 11}
_LONG = 1 << 16
"""Numbers from here on are printed in hexadecimal."""
_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
"""Format codes of struct by size in bytes."""


def print_python(code: Generated) -> tuple[str, dict[str, Any]]:
    """Print all functions; return the source, and the objects that it needs besides those of ``code``."""
    printer = _Printer(code)
    lines: list[str] = []
    for function in code.functions:
        lines += [*printer.function(function), "", ""]
    return "\n".join(lines[:-1]), printer.objects


def _in_tuple(parts: Sequence[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


class _Printer:
    def __init__(self, code: Generated) -> None:
        self._code = code
        self.objects: dict[str, Any] = {}
        self._unpackers: dict[str, str] = {}
        self._count = 0

    def _fresh(self) -> str:
        """Return a new variable; names of fields do not begin with an underscore."""
        self._count += 1
        return f"_{self._count}"

    def function(self, function: Function) -> list[str]:
        """Print a function, as lines."""
        code, lines = self._code, []
        parameters = {
            INGRESS: f"port, data, now_ns{', again=None' if code.comes_again else ''}",
            PARSE_AGAIN: "port, data, now_ns, kept",
            EGRESS: "packet, enqueued_ns, dequeued_ns, enq_qdepth, deq_qdepth",
        }[function.name]
        lines.append(f"def {function.name}({parameters}):")
        if function.name == EGRESS and code.carried:
            lines.append(f"    {_in_tuple(code.carried)} = packet[3]")
        if function.zeroed:
            lines.append(f"    {' = '.join(function.zeroed)} = 0")
        return lines + self._lines(function.body, 1)

    # ---- statements ----

    def _lines(self, statements: Iterable[st.Stmt], depth: int) -> list[str]:
        pad = "    " * depth
        lines: list[str] = []
        for statement in statements:
            if isinstance(statement, st.Step):
                lines += [pad + line for line in self._step(statement)]
            elif isinstance(statement, st.If):
                lines += self._choice(statement, depth)
            elif isinstance(statement, st.Break):
                lines.append(f"{pad}break")
            elif isinstance(statement, st.Loop):
                name = statement.variable
                lines.append(f"{pad}while {name} >= 0:")
                this = ex.Var(*self._code.types.numbers[name], name)
                parts = [st.Branch(ex.Compare("==", this, ar.constant(n)), body) for n, body in statement.parts.items()]
                lines += self._choice(st.If(parts), depth + 1)
            elif has_break(statement.body):
                lines += [f"{pad}while True:", *self._lines(statement.body, depth + 1), f"{pad}    break"]
            else:
                lines += self._lines(statement.body, depth)
        return lines

    def _choice(self, statement: st.If, depth: int) -> list[str]:
        pad, word = "    " * depth, "if"
        lines: list[str] = []
        while True:
            for branch in statement.branches:
                lines.append(f"{pad}{word} {self.text(branch.condition)}:")
                lines += self._lines(branch.body, depth + 1) or [f"{pad}    pass"]
                word = "elif"
            orelse = statement.orelse
            if len(orelse) != 1 or not isinstance(orelse[0], st.If):
                break
            statement = orelse[0]
        if orelse:
            lines += [f"{pad}else:", *self._lines(orelse, depth + 1)]
        return lines

    def _step(self, step: st.Step) -> list[str]:
        text = self.text
        match step:
            case st.Assign(target, value) | st.Perform(target, value):
                return [f"{target} = {text(value)}"]
            case st.SetBytes(target, octets):
                return [f"{target} = {self._bytes(octets)}"]
            case st.Extract():
                return self._extract(step)
            case st.LookUp(record, results, keys):
                return [f"{record} = {results}[{self._list(keys) or '0'}]"]
            case st.ChooseMember(record, hashed):
                return [f"{record} = {record}[3][{text(hashed, _PRODUCT)} % len({record}[3])]"]
            case st.Count(cells, index, amount):
                return [f"{cells}[{text(index)}] += {text(amount)}"]
            case st.CountHit(record):
                cells = self._fresh()
                return [f"{cells} = {record}[2].cells", f"{cells}[0] += 1", f"{cells}[1] += n"]
            case st.NoteHit(record):
                return [f"{record}[2].cells[{LAST_HIT_AT}] = now_ns"]
            case st.WriteCell(cells, index, value):
                return [f"{cells}[{text(index)}] = {text(value)}"]
            case st.Report("digest", function, (name,), values):
                return [f"{function}({name!r}, {self._tuple(values)})"]
            case st.Report(_, function, fixed, values):
                return [f"{function}({', '.join([*map(repr, fixed), *map(text, values)])})"]
            case st.Drop():
                return ["return None"]
            case st.PassOn(make, kind, port, priority, state):
                return [f"return {make}({kind}, ({text(port)}, {text(priority)}, n, {self._tuple(state)}))"]
            case st.ReturnState(state):
                return [f"return {self._tuple(state)}"]
            case st.Send(frame):
                return [f"return {self._bytes(frame)}"]
        return self._copy(step)

    def _copy(self, step: st.Step) -> list[str]:
        text = self.text
        match step:
            case st.Keep(values):
                return [f"kept = {self._tuple(values)}"]
            case st.TakeAlong(targets):
                return [f"{_in_tuple(targets)} = again"]
            case st.CloneIngress(cut, clone, session, priority):
                again = "parse_again(port, cut_data, now_ns, kept)"
                return [
                    f"cut_data = {cut}({text(session)}, data)",
                    f"{clone}({text(session)}, {text(priority)}, len(cut_data), {again})",
                ]
            case st.CloneEgress(cut, clone, session, priority, length, state):
                return [
                    f"cut_data, cut_length = {cut}({text(session)}, data, off, {text(length)})",
                    f"{clone}({text(session)}, {text(priority)}, cut_length, {self._tuple(state)})",
                ]
            case st.Multicast(function, group, priority, state):
                return [f"{function}({text(group)}, {text(priority)}, n, {self._tuple(state)})"]
            case st.ComeAgain(function, port, packet, kind, rounds):
                return [f"{function}({text(port)}, {packet}, ({kind}, {text(rounds)} + 1, *kept))"]
        raise NotImplementedError(type(step).__name__)

    def _extract(self, step: st.Extract) -> list[str]:
        """Extract fields by one call of struct, unless a single byte is enough."""
        layout, targets, after = "!", list[str](), list[str]()
        needed: list[st.Run] = []
        for run in step.runs():
            wanted = [one for one in run.fields if one.variable in step.wanted]
            if not wanted:
                layout += f"{run.size}x"
                continue
            needed.append(run)
            if len(run.fields) == 1 and run.size in _CODES:
                code = _CODES[run.size]
                layout += code if run.fields[0].signed else code.upper()
                targets.append(run.fields[0].variable)
                continue
            pieces: list[ex.Number] = []
            left = run.size
            while left:
                size = max(s for s in _CODES if s <= left)
                left -= size
                piece = ex.Var(0, (1 << 8 * size) - 1, self._fresh())
                layout += _CODES[size].upper()
                targets.append(piece.name)
                pieces.append(ar.placed(piece, ar.constant(8 * left)))
            whole = ar.bits_joined(pieces)
            if len(pieces) > 1 and len(wanted) > 1:
                name = self._fresh()
                after.append(f"{name} = {self.text(whole)}")
                whole = ex.Var(whole.low, whole.high, name)
            after += [f"{one.variable} = {self.text(value)}" for one, value in run.values(whole) if one in wanted]
        if len(needed) == 1 and needed[0].size == 1 and "b" not in layout:
            at = ar.add(step.begin, ar.constant(needed[0].at))
            return [f"{targets[0]} = data[{self.text(at)}]", *after]
        return [f"{_in_tuple(targets)} = {self._unpacker(layout)}(data, {self.text(step.begin)})", *after]

    def _unpacker(self, layout: str) -> str:
        if layout not in self._unpackers:
            name = self._unpackers[layout] = f"_unpack_{len(self._unpackers)}"
            self.objects[name] = struct.Struct(layout).unpack_from
        return self._unpackers[layout]

    # ---- expressions ----

    def text(self, node: ex.Node, least: int = 0) -> str:
        """Print an expression, in parentheses if it binds less tightly than ``least``."""
        binds, text = self._number(node) if isinstance(node, ex.Number) else self._condition(node)
        return f"({text})" if binds < least else text

    def _list(self, values: Iterable[ex.Number]) -> str:
        return ", ".join(map(self.text, values))

    def _tuple(self, parts: Iterable[ex.Number | ex.Bytes]) -> str:
        return _in_tuple([self._bytes(part) if isinstance(part, ex.Bytes) else self.text(part) for part in parts])

    def _number(self, node: ex.Number) -> tuple[int, str]:
        text = self.text
        match node:
            case ex.Literal(value):
                shown = str(value) if abs(value) < _LONG else hex(value)
                return _ATOM if value >= 0 else _SIGN, shown
            case ex.Var() | ex.Bound():
                return _ATOM, node.name
            case ex.Binary(_, _, sign, left, right):
                binds = _BINARY[sign]
                return binds, f"{text(left, binds)} {sign} {text(right, binds + 1)}"
            case ex.Unary(_, _, sign, operand):
                return _SIGN, f"{sign}{text(operand, _SIGN)}"
            case ex.Choice(_, _, condition, yes, no):
                return _CHOICE, f"{text(yes, _OR)} if {text(condition, _OR)} else {text(no, _CHOICE)}"
            case ex.Bind(_, _, name, value):
                return 0, f"{name} := {text(value, _CHOICE)}"
            case ex.Pick(_, _, items, index):
                return _ATOM, f"{_in_tuple([text(item) for item in items])}[{text(index)}]"
            case ex.BitLength(_, _, operand):
                return _ATOM, f"{self._object(operand)}.bit_length()"
            case ex.Load(_, _, begin, end, size):
                if size == 1:
                    return _ATOM, f"data[{text(begin)}]"
                return _ATOM, f"int.from_bytes(data[{text(begin)}:{text(end)}], 'big')"
            case ex.Length(_, _, name):
                return _ATOM, f"len({name})"
            case ex.EgressPort():
                return _ATOM, "packet[0]"
            case ex.Kept(_, _, position):
                return _ATOM, f"kept[{position}]"
        return _ATOM, self._access(node)

    def _object(self, node: ex.Number) -> str:
        """Print a number on which a method is called."""
        return f"({self.text(node)})" if isinstance(node, ex.Literal) else self.text(node, _ATOM)

    def _access(self, node: ex.Number) -> str:
        """Print an access to an object or to the result of a table."""
        text = self.text
        match node:
            case ex.ResultField(_, _, record, position):
                return f"{record}[{position}]"
            case ex.Cell(_, _, cells, index):
                return f"{cells}[{text(index)}]"
            case ex.MemoHash(_, _, name, _, key):
                return f"{name}[{self._tuple(key)}]"
            case ex.FieldsHash(_, _, name, _, fields, payload):
                parts = [f"({text(present)}, {text(value)})" for present, value in fields]
                return f"{name}({', '.join([self._bytes(payload), *parts])})"
            case ex.Meter(_, _, name, _, index):
                return f"{name}({text(index)}, n, now_ns)"
            case ex.EntryMeter(_, _, name, _, record):
                return f"{name}({record}[2], n, now_ns)"
            case ex.Random(_, _, name, least, most):
                return f"{name}({text(least)}, {text(most)})"
        raise NotImplementedError(type(node).__name__)

    def _condition(self, node: ex.Node) -> tuple[int, str]:
        text = self.text
        match node:
            case ex.Known(value):
                return _ATOM, str(value)
            case ex.NotZero(number):
                return self._number(number) if not isinstance(number, ex.Bind) else (_ATOM, f"({text(number)})")
            case ex.Compare(sign, left, right):
                return _COMPARE, f"{text(left, _COMPARE + 1)} {sign} {text(right, _COMPARE + 1)}"
            case ex.Not(operand):
                return _NOT, f"not {text(operand, _NOT)}"
            case ex.Junction(word, left, right):
                binds = _AND if word == "and" else _OR
                return binds, f"{text(left, binds)} {word} {text(right, binds)}"
            case ex.Either(condition, yes, no):
                return _CHOICE, f"{text(yes, _OR)} if {text(condition, _OR)} else {text(no, _CHOICE)}"
            case ex.Member(name, values):
                return _COMPARE, f"{self._tuple(values)} in {name}"
            case ex.IsNew():
                return _COMPARE, "again is None"
        raise NotImplementedError(type(node).__name__)

    def _bytes(self, node: ex.Bytes) -> str:
        match node:
            case ex.NoBytes():
                return "b''"
            case ex.BytesVar(name):
                return name
            case ex.Slice(begin, end):
                return f"data[{self.text(begin)}:{self.text(end)}]"
            case ex.ToBytes(number, length):
                return f"{self._object(number)}.to_bytes({self.text(length)}, 'big')"
            case ex.Frame(headers, limit):
                whole = " + ".join([*(header.name for header in headers), "data[off:]"])
                return whole if limit is None else f"({whole})[: {limit.name} - 1 if {limit.name} else None]"
        raise NotImplementedError(type(node).__name__)
