"""The page of results that are rows: means over seeds with their intervals, whatever command wrote them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from mfs_eval.errors import EvaluationError
from mfs_eval.results import charts, command_log, report
from mfs_eval.results.charts import Point, Spread
from mfs_eval.results.findings import sentence
from mfs_eval.results.page import Page, Section, Table, Value
from mfs_eval.results.rows import StoredRow, read_rows
from mfs_eval.results.statistics import mean_interval, paired_difference
from mfs_eval.setup.policies import CEILING

R = TypeVar("R", bound=StoredRow)
RATE = "requests per second"


@dataclass(frozen=True, slots=True)
class Measure:
    """What the page needs of a row: where it belongs and what was attained; times in milliseconds."""

    group: str
    key: tuple[object, ...]
    """All that tells its group from others, of which ``group`` is a short form."""
    policy: str
    rate: float
    seed: int
    attained: float
    mean_ms: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together: what they are of in a line, and the picture of their cluster (SVG)."""

    description: str
    picture: str


def names_of(keys: Sequence[tuple[object, ...]]) -> dict[tuple[object, ...], str]:
    """Return a name for each key: its first part, and those others in which keys differ."""
    keys = list(dict.fromkeys(keys))
    told = [number for number, values in enumerate(zip(*keys, strict=True)) if number == 0 or len(set(values)) > 1]
    return {
        key: "-".join(f"{part:g}" if isinstance(part, float) else str(part) for part in (key[at] for at in told))
        for key in keys
    }


def rows_of(path: Path, kind: type[R]) -> list[R]:
    """Read the rows of a file, of which there must be some.

    Raises:
        EvaluationError: the file holds something else, or nothing, or cannot be read.
    """
    try:
        rows = read_rows(path, kind)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from None
    if not rows:
        raise EvaluationError(f"{path}: holds no runs")
    return rows


def rank_in(order: Iterable[str]) -> Callable[[str], int]:
    """Return the key by which names sort as in ``order``; those that are not in it come last."""
    ranks = {name: rank for rank, name in enumerate(order)}
    return lambda name: ranks.get(name, len(ranks))


@dataclass(frozen=True, slots=True)
class Rows:
    """What a file of rows says.

    Attributes:
        title: of the page.
        introduction: its paragraphs.
        measures: what was attained.
        groups: the sections, by name.
        policies: what each policy does, in a line.
        provenance: where the rows come from, by name.
        rate_title: what the rate is.
    """

    title: str
    introduction: Sequence[str]
    measures: Sequence[Measure]
    groups: Mapping[str, Group]
    policies: Mapping[str, str]
    provenance: Mapping[str, object]
    rate_title: str = RATE


def page(rows: Rows) -> Page:
    """Return the page of ``rows``, a section for each group."""
    return Page(
        title=rows.title,
        introduction=(*rows.introduction, "Means over seeds; intervals by Student's t, where there are several seeds."),
        policies=rows.policies,
        sections=[
            _section(name, group, [one for one in rows.measures if one.group == name], rows.rate_title)
            for name, group in rows.groups.items()
        ],
        notes=("Times in milliseconds of the model. In time: share of the requests that meet their objective.",),
        provenance=rows.provenance,
    )


def origin(path: Path, rows: Sequence[StoredRow], seeds: Iterable[int]) -> dict[str, object]:
    """Return where the rows of ``path`` come from, for readers."""
    return {
        **command_log.described(path.parent),
        "file": path.name,
        "rows": len(rows),
        "seeds": ", ".join(map(str, sorted(set(seeds)))),
        **report.origin(rows[0]),
    }


def _section(name: str, group: Group, measures: Sequence[Measure], rate_title: str) -> Section:
    points: list[Point] = []
    spreads: list[Spread] = []
    texts: list[list[str]] = []
    values: list[list[Value]] = []
    for policy in dict.fromkeys(one.policy for one in measures):
        for rate in sorted({one.rate for one in measures if one.policy == policy}):
            here = [one for one in measures if (one.policy, one.rate) == (policy, rate)]
            attained = mean_interval([one.attained for one in here])
            half = attained.half if len(here) > 1 else 0.0
            points.append(Point(policy, rate, attained.mean, attained.mean - half, attained.mean + half))
            times = [fmean(getattr(one, name) for one in here) for name in ("mean_ms", "p50_ms", "p99_ms")]
            spreads.append(Spread(policy, rate, *times))
            interval = f"{attained.mean:.1%}" + (f" ± {100 * half:.1f}" if len(here) > 1 else "")
            texts.append([policy, f"{rate:g}", str(len(here)), interval, *(f"{ms:.0f}" for ms in times)])
            values.append([policy, rate, len(here), attained.mean, *(round(ms, 3) for ms in times)])
    told = _finding(measures, max(point.rate for point in points), rate_title)
    headings = ("policy", rate_title, "seeds", "in time, share", "TTFT mean, ms", "TTFT p50, ms", "TTFT p99, ms")
    table = Table("results", "Means over the seeds", headings, texts, values)
    drawn = [charts.attainment(points, told, rate_title), charts.ttft_spread(spreads)]
    return Section(name, told, group.description, drawn, [table], group.picture)


def _finding(measures: Sequence[Measure], rate: float, rate_title: str) -> str:
    by_seed: dict[str, dict[int, float]] = {}
    for one in measures:
        if one.rate == rate:
            by_seed.setdefault(one.policy, {})[one.seed] = one.attained
    return sentence(
        f"{rate:g} {rate_title}",
        {policy: fmean(shares.values()) for policy, shares in by_seed.items() if policy != CEILING},
        lambda policy, base: paired_difference(by_seed[policy], by_seed[base]),
    )
