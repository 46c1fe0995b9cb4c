"""Removal of statements whose result is never read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from soft_switch.ir import statements as st
from soft_switch.ir.arithmetic import negation
from soft_switch.ir.expressions import EMPTY, Names, Var


def written(statements: Iterable[st.Stmt]) -> set[str]:
    """Return every variable that any of the statements may set."""
    result: set[str] = set()
    for statement in statements:
        if isinstance(statement, st.Step):
            result |= statement.writes
        elif isinstance(statement, st.Block):
            result |= written(statement.body)
        elif isinstance(statement, st.If):
            for branch in statement.branches:
                result |= written(branch.body)
            result |= written(statement.orelse)
        elif isinstance(statement, st.Loop):
            result.add(statement.variable)
            for body in statement.parts.values():
                result |= written(body)
    return result


def prune(statements: Sequence[st.Stmt], live: Names, after_block: Names = EMPTY) -> tuple[list[st.Stmt], Names]:
    """Return the statements that matter if ``live`` is read afterwards, and what they read from before.

    ``after_block`` is what is read where a :class:`Break` leads.
    """
    result: list[st.Stmt] = []
    for statement in reversed(statements):
        kept, live = _prune_one(statement, live, after_block)
        result += reversed(kept)
    result.reverse()
    return result, live


def _prune_one(statement: st.Stmt, live: Names, after_block: Names) -> tuple[list[st.Stmt], Names]:
    if isinstance(statement, st.Step):
        return _prune_step(statement, live)
    if isinstance(statement, st.If):
        return _prune_if(statement, live, after_block)
    if isinstance(statement, st.Block):
        body, before = prune(statement.body, live, live)
        while body and isinstance(body[-1], st.Break):
            body.pop()
        return ([st.Block(body)] if body else []), before
    if isinstance(statement, st.Loop):
        return _prune_loop(statement, live)
    return [statement], after_block


def _prune_step(step: st.Step, live: Names) -> tuple[list[st.Stmt], Names]:
    if isinstance(step, st.LEAVING):
        return [step], step.reads
    if isinstance(step, st.Setting):
        if isinstance(step, st.Extract):
            step = step.narrowed(live)
        is_idle = isinstance(step, st.Assign) and isinstance(step.value, Var) and step.value.name == step.target
        if is_idle or live.isdisjoint(step.writes):
            return [], live
    return [step], (live - step.writes) | step.reads


def _prune_if(statement: st.If, live: Names, after_block: Names) -> tuple[list[st.Stmt], Names]:
    orelse, before = prune(statement.orelse, live, after_block)
    branches: list[st.Branch] = []
    for branch in reversed(statement.branches):
        body, body_before = prune(branch.body, live, after_block)
        if branch.condition.known is not None:
            if branch.condition.known:
                orelse, before, branches = body, body_before, []
            continue
        if not body and not branches and not orelse:
            continue  # the last branch does nothing, and the same holds for what follows it
        branches.append(st.Branch(branch.condition, body))
        before = before | body_before | branch.condition.reads
    if not branches:
        return orelse, before
    branches.reverse()
    if len(branches) == 1 and not branches[0].body:
        return [st.If([st.Branch(negation(branches[0].condition), orelse)])], before
    return [st.If(branches, orelse)], before


def _prune_loop(statement: st.Loop, live: Names) -> tuple[list[st.Stmt], Names]:
    """Prune a loop: any part may follow any other, so what one part reads is live after all of them."""
    after = live | {statement.variable}
    while True:
        pruned = {number: prune(body, after, live) for number, body in statement.parts.items()}
        before = after.union(*(reads for _, reads in pruned.values()))
        if before == after:
            return [st.Loop(statement.variable, {number: body for number, (body, _) in pruned.items()})], before
        after = before


def has_break(statements: Iterable[st.Stmt]) -> bool:
    """Return whether any of the statements leaves the enclosing block."""
    return any(
        isinstance(s, st.Break)
        or (isinstance(s, st.If) and (any(has_break(branch.body) for branch in s.branches) or has_break(s.orelse)))
        for s in statements
    )
