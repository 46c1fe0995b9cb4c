"""Statements of the generated functions, what they read and write, and the removal of those that nobody needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

Names = frozenset[str]
EMPTY: Names = frozenset()


@dataclass(slots=True)
class Assign:
    """``target = text`` without other effect: dropped where the target is not read afterwards."""

    target: str
    text: str
    reads: Names = EMPTY


@dataclass(slots=True)
class Effect:
    """Lines that are always kept."""

    lines: tuple[str, ...]
    reads: Names = EMPTY
    writes: Names = EMPTY


@dataclass(slots=True)
class Multi:
    """One statement that sets several variables, written out by ``render`` for those of them that are needed."""

    targets: Names
    reads: Names
    render: Callable[[Names], list[str]]
    wanted: Names = EMPTY


@dataclass(slots=True)
class If:
    """Branches (condition, names it reads, body), the first that holds; then ``orelse``."""

    branches: list[tuple[str, Names, list[Stmt]]]
    orelse: list[Stmt] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    """A body that :class:`Break` leaves."""

    body: list[Stmt]


@dataclass(slots=True)
class Break:
    """Leaves the enclosing :class:`Block`."""


@dataclass(slots=True)
class Return:
    """Leaves the function with the value of ``text``."""

    text: str
    reads: Names = EMPTY


@dataclass(slots=True)
class Loop:
    """Parts by number; each ends by setting ``variable`` to the number of the next, or to -1, which ends the loop.

    A :class:`Break` ends it, too.
    """

    variable: str
    parts: dict[int, list[Stmt]]


Stmt = Assign | Effect | Multi | If | Block | Break | Return | Loop


def written(statements: Iterable[Stmt]) -> set[str]:
    """Every name that any of the statements may set."""
    result: set[str] = set()
    for statement in statements:
        if isinstance(statement, Assign):
            result.add(statement.target)
        elif isinstance(statement, Effect):
            result |= statement.writes
        elif isinstance(statement, Multi):
            result |= statement.targets
        elif isinstance(statement, Block):
            result |= written(statement.body)
        elif isinstance(statement, If):
            for _, _, body in statement.branches:
                result |= written(body)
            result |= written(statement.orelse)
        elif isinstance(statement, Loop):
            result.add(statement.variable)
            for body in statement.parts.values():
                result |= written(body)
    return result


def prune(statements: Sequence[Stmt], live: Names, after_block: Names = EMPTY) -> tuple[list[Stmt], Names]:
    """The statements that matter if ``live`` is read afterwards, and what they read from before.

    ``after_block`` is what is read where a :class:`Break` leads.
    """
    result: list[Stmt] = []
    for statement in reversed(statements):
        kept, live = _prune_one(statement, live, after_block)
        if kept is not None:
            result.append(kept)
    result.reverse()
    return result, live


def _prune_one(statement: Stmt, live: Names, after_block: Names) -> tuple[Stmt | None, Names]:
    if isinstance(statement, Assign):
        if statement.target not in live or statement.text == statement.target:
            return None, live
        return statement, (live - {statement.target}) | statement.reads
    if isinstance(statement, Effect):
        return statement, (live - statement.writes) | statement.reads
    if isinstance(statement, Multi):
        wanted = statement.targets & live
        if not wanted:
            return None, live
        return Multi(statement.targets, statement.reads, statement.render, wanted), (live - wanted) | statement.reads
    if isinstance(statement, If):
        return _prune_if(statement, live, after_block)
    if isinstance(statement, Block):
        body, before = prune(statement.body, live, live)
        while body and isinstance(body[-1], Break):
            body.pop()
        return (Block(body) if body else None), before
    if isinstance(statement, Break):
        return statement, after_block
    if isinstance(statement, Loop):
        return _prune_loop(statement, live)
    return statement, statement.reads


def _prune_if(statement: If, live: Names, after_block: Names) -> tuple[Stmt | None, Names]:
    orelse, before = prune(statement.orelse, live, after_block)
    branches: list[tuple[str, Names, list[Stmt]]] = []
    for condition, reads, body in reversed(statement.branches):
        kept, body_before = prune(body, live, after_block)
        if not kept and not branches and not orelse:
            continue  # the last branch does nothing, as whatever would follow it
        branches.append((condition, reads, kept))
        before = before | body_before | reads
    if not branches:
        if orelse:
            return If([("True", EMPTY, orelse)]), before
        return None, live
    branches.reverse()
    if len(branches) == 1 and not branches[0][2]:
        condition, reads, _ = branches[0]
        return If([(f"not ({condition})", reads, orelse)]), before
    return If(branches, orelse), before


def _prune_loop(statement: Loop, live: Names) -> tuple[Stmt, Names]:
    """Any part may follow any other, so what one reads is live after all."""
    after = live | {statement.variable}
    while True:
        pruned = {number: prune(body, after, live) for number, body in statement.parts.items()}
        before = after.union(*(reads for _, reads in pruned.values()))
        if before == after:
            return Loop(statement.variable, {number: body for number, (body, _) in pruned.items()}), before
        after = before


def has_break(statements: Iterable[Stmt]) -> bool:
    """Whether any of the statements leaves the enclosing block."""
    return any(
        isinstance(s, Break)
        or (isinstance(s, If) and (any(has_break(b) for _, _, b in s.branches) or has_break(s.orelse)))
        for s in statements
    )


def render(statements: Iterable[Stmt], depth: int = 1) -> list[str]:
    """Lines of Python for pruned statements."""
    pad = "    " * depth
    lines: list[str] = []
    for statement in statements:
        if isinstance(statement, Assign):
            lines.append(f"{pad}{statement.target} = {statement.text}")
        elif isinstance(statement, Effect):
            lines += [pad + line for line in statement.lines]
        elif isinstance(statement, Multi):
            lines += [pad + line for line in statement.render(statement.wanted)]
        elif isinstance(statement, If):
            lines += _render_if(statement, depth)
        elif isinstance(statement, Block):
            if has_break(statement.body):
                lines.append(f"{pad}while True:")
                lines += render(statement.body, depth + 1)
                lines.append(f"{pad}    break")
            else:
                lines += render(statement.body, depth)
        elif isinstance(statement, Break):
            lines.append(f"{pad}break")
        elif isinstance(statement, Loop):
            lines.append(f"{pad}while {statement.variable} >= 0:")
            name = statement.variable
            choice = If([(f"{name} == {number}", EMPTY, body) for number, body in statement.parts.items()])
            lines += _render_if(choice, depth + 1)
        else:
            lines.append(f"{pad}return {statement.text}")
    return lines


def _render_if(statement: If, depth: int) -> list[str]:
    pad = "    " * depth
    if statement.branches[0][0] == "True":
        return render(statement.branches[0][2], depth)
    lines: list[str] = []
    word = "if"
    while True:
        for condition, _, body in statement.branches:
            lines.append(f"{pad}{word} {condition}:")
            lines += render(body, depth + 1) or [f"{pad}    pass"]
            word = "elif"
        nested = statement.orelse[0] if len(statement.orelse) == 1 else None
        if isinstance(nested, If) and nested.branches[0][0] != "True":
            statement = nested
            continue
        break
    if statement.orelse:
        lines.append(f"{pad}else:")
        lines += render(statement.orelse, depth + 1)
    return lines
