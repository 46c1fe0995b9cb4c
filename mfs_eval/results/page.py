"""A page of results as one HTML file that needs nothing else: text, charts, tables with their CSV, and where from.

Charts are drawn by Vega, which is part of the file, as SVG with real text.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import vl_convert
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from mfs_eval.results.charts import Chart, shown
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.results.palette import DARK_PAGE, LIGHT_PAGE, Style, styles

Value = str | float
FILE = "report.html"
"""What the page is called in a folder of results."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that readers can sort: headings with units, and rows of texts; the first column is a name.

    ``values``: what rows are sorted by and the CSV has, in the same order as the texts.
    """

    name: str
    title: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    values: Sequence[Sequence[Value]]

    @property
    def csv(self) -> str:
        """The values as CSV text (RFC 4180)."""
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([self.headings, *self.values])
        return text.getvalue()


@dataclass(frozen=True, slots=True)
class Section:
    """A scenario, or whatever else runs are grouped by.

    ``picture``: an SVG element that shows the cluster, with a title and a description; empty for none.
    """

    name: str
    finding: str
    description: str
    charts: Sequence[Chart]
    tables: Sequence[Table]
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        title: its heading.
        introduction: paragraphs before the first section.
        policies: the policies in its charts, each with what it does in a line (or nothing).
        sections: what was found.
        notes: paragraphs after the tables: what columns mean.
        provenance: where the results come from, by name.
    """

    title: str
    introduction: Sequence[str]
    policies: Mapping[str, str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    provenance: Mapping[str, object] = field(default_factory=dict)


def write(page: Page, file: Path) -> Path:
    """Write the page to ``file``, which is replaced atomically, and return its path.

    Raises:
        EvaluationError: the file cannot be written.
    """
    with writing(file):
        write_atomically(file, html(page))
    return file


def html(page: Page) -> str:
    """Return the page: the same text for the same content."""
    environment = Environment(
        loader=PackageLoader("mfs_eval"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    specs = {
        f"{section.name}-{chart.name}": {"description": chart.alternative, **chart.spec}
        for section in page.sections
        for chart in section.charts
    }
    drawn = styles(list(page.policies))
    return environment.get_template("report.html").render(
        page=page,
        swatches={name: _swatch(style) for name, style in drawn.items()},
        style=Markup(_template("report.css").replace("LIGHT_PAGE", LIGHT_PAGE).replace("DARK_PAGE", DARK_PAGE)),
        vega=Markup(_vega()),
        script=Markup(_template("report.js")),
        # A closing tag within a text would end the script element.
        specs=Markup(json.dumps(specs, separators=(",", ":")).replace("</", "<\\/")),
        shown=shown(list(page.policies)),
        data_uri=_data_uri,
    )


def _data_uri(text: str) -> str:
    return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()


_OUTLINES = {
    "circle": '<circle cx="20" cy="7" r="4.5"/>',
    "square": '<rect x="15.8" y="2.8" width="8.4" height="8.4"/>',
    "diamond": '<path d="M20 1l5 6-5 6-5-6z"/>',
    "triangle-up": '<path d="M20 2l5 9h-10z"/>',
    "triangle-down": '<path d="M20 12l5-9h-10z"/>',
    "triangle-right": '<path d="M25 7l-9-5v10z"/>',
    "triangle-left": '<path d="M15 7l9-5v10z"/>',
    "cross": '<path d="M18.3 2h3.4v3.3H25v3.4h-3.3V12h-3.4V8.7H15V5.3h3.3z"/>',
    "wedge": '<path d="M20 1l3 11h-6z"/>',
}


def _swatch(style: Style) -> Markup:
    """Return a small picture of a policy's line and point."""
    dash = ",".join(map(str, style.dash)) or "none"
    return Markup(
        f'<svg width="40" height="14" aria-hidden="true" fill="{style.colour}" stroke="{style.colour}">'
        f'<path d="M0 7h40" stroke-width="2" stroke-dasharray="{dash}"/>{_OUTLINES[style.shape]}</svg>'
    )


@lru_cache
def _vega() -> str:
    bundle: str = vl_convert.javascript_bundle("Object.assign(window, {vega, vegaLite, vegaEmbed})")
    return bundle.replace("</script", "<\\/script")


def _template(name: str) -> str:
    return (files("mfs_eval") / "templates" / name).read_text("utf-8")
