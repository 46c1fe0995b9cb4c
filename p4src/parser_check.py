"""Whether the parsers of a program compiled for Tofino match on what the program selects on.

p4c 34b86e9bac loses the match values of parser states, so that each transition becomes the row ``*``: the first row is
always taken, and those behind it are unreachable. P4Info does not show it. The assembly does (NAME.bfa in the output of
the compiler): it lists the rows of each state in order, each with the value that it matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

GRESSES = ("ingress", "egress")
_KEY = re.compile(r"( +)([^\s#][^:]*):\s*$")
_ROW = re.compile(r"\*|[0-9][0-9a-fA-FxX*_]*|value_set .*")
_ANY = re.compile(r"(0[xb])?\*+")


def parser_defects(assembly: str) -> list[str]:
    """Return why the parsers in ``assembly``, the text of a NAME.bfa, cannot work; empty if no defect was found."""
    defects = []
    for gress in GRESSES:
        states = dict(_states(_section(assembly, gress)))
        if all(_ANY.fullmatch(row) for rows in states.values() for row in rows):
            defects.append(f"no state of the {gress} parser matches on a value")
        elif hidden := [name for name, rows in states.items() if any(map(_ANY.fullmatch, rows[:-1]))]:
            defects.append(f"in the {gress} parser, rows behind one that matches anything: {', '.join(hidden)}")
    return defects


def _section(assembly: str, gress: str) -> list[str]:
    """Return the lines below ``states:`` of the parser of ``gress``."""
    lines: list[str] = []
    inside = False
    for line in assembly.splitlines():
        if line[:1].strip():
            inside = line.startswith(f"parser {gress}")
        elif inside:
            lines.append(line)
    titles = [number for number, line in enumerate(lines) if line.strip() == "states:"]
    return lines[titles[0] + 1 :] if titles else []


def _states(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the states with the values of their rows. The names of states are the keys with the least indentation."""
    keys = [(len(key.group(1)), key.group(2).strip()) for key in map(_KEY.match, lines) if key is not None]
    outermost = min((indent for indent, _ in keys), default=0)
    name, rows = "", list[str]()
    for indent, key in keys:
        if indent == outermost:
            if rows:
                yield name, rows
            name, rows = key, []
        elif _ROW.fullmatch(key):
            rows.append(key)
    if rows:
        yield name, rows
