"""One colour, dash and shape for each policy, the same in every picture.

Colours have a contrast of at least 3 to 1 to the light and to the dark page (WCAG 2.2, 1.4.11). So many colours of
similar lightness cannot all differ for every kind of colour vision, so lines differ in dashes and points in shapes too.
"""

from __future__ import annotations

from dataclasses import dataclass

LIGHT_PAGE, DARK_PAGE = "#ffffff", "#15181d"


@dataclass(frozen=True, slots=True)
class Style:
    """How a policy is drawn: ``dash`` in pixels on and off, ``shape`` as Vega and ``marker`` as Matplotlib call it."""

    colour: str
    dash: tuple[int, ...]
    shape: str
    marker: str


STYLES = {
    "mfs": Style("#d55e00", (), "circle", "o"),
    "static-reuse": Style("#0072b2", (8, 3), "square", "s"),
    "fifo": Style("#787878", (2, 3), "diamond", "D"),
    "static": Style("#9a7d0a", (8, 3, 2, 3), "triangle-up", "^"),
    "sjf": Style("#009e73", (4, 2), "triangle-down", "v"),
    "edf": Style("#b4559f", (12, 3), "cross", "P"),
    "mfs-tail": Style("#c23b6b", (6, 2, 2, 2, 2, 2), "triangle-left", "<"),
    "mfs-tcp": Style("#e0457b", (), "triangle-right", ">"),
    "mfs-tcp-bands": Style("#a3476b", (8, 2, 2, 2), "triangle-right", "4"),
    "ceiling": Style("#8a8a8a", (1, 2), "wedge", "2"),
}
_OTHER_COLOURS = ("#8c564b", "#5b7fbf", "#6f8f3f", "#9b6fc7")
_OTHER_DASHES = ((10, 2, 2, 2), (3, 3), (14, 4), (5, 2, 1, 2), (2, 2, 6, 2))
_OTHER_SHAPES = (("triangle-left", "<"), ("circle", "o"), ("square", "s"), ("diamond", "D"), ("triangle-up", "^"))


def styles(policies: list[str]) -> dict[str, Style]:
    """Return the style of each of ``policies``; those without one of their own get the others in turn."""
    others = [name for name in policies if name not in STYLES]
    return {name: STYLES[name] if name in STYLES else _other(others.index(name)) for name in policies}


def _other(number: int) -> Style:
    """Return one of 20 styles, which differ in colour, or in dash and shape."""
    form = number % len(_OTHER_SHAPES)
    return Style(_OTHER_COLOURS[number % len(_OTHER_COLOURS)], _OTHER_DASHES[form], *_OTHER_SHAPES[form])
