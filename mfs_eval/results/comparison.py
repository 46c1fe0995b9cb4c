"""The page that compares two results: what changed for each scenario, policy and rate that both have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from mfs_eval.errors import EvaluationError
from mfs_eval.results import charts, findings
from mfs_eval.results.page import Page, Section, Table, Value
from mfs_eval.results.row_page import RATE, Measure, names_of
from mfs_eval.results.schema import Run
from mfs_eval.results.statistics import Estimate, paired_difference

Key = tuple[tuple[object, ...], str, float]
"""What runs are of (a scenario, or a case on a fabric), their policy, and their rate."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """Means of the runs before and after; ``gain`` is the paired difference of ``shares``, None if nothing pairs.

    Attributes:
        shares: requests in time.
        means_ms: mean time to first token (TTFT).
        gain: from before to after.
    """

    shares: tuple[float, float]
    means_ms: tuple[float, float]
    gain: Estimate | None


def of_runs(before: Iterable[Run], after: Iterable[Run]) -> dict[Key, Change]:
    """Return the changes between runs of ``results.json``, paired by seed, or by request if there is one seed."""
    found = _both(before, after, lambda run: ((run.scenario,), run.policy, run.request_rate))
    return {
        key: Change(
            _means(sides, lambda run: run.slo_attainment),
            _means(sides, lambda run: 1e3 * run.ttft_mean_s),
            findings.difference(sides[1], sides[0]),
        )
        for key, sides in found.items()
    }


def of_measures(before: Iterable[Measure], after: Iterable[Measure]) -> dict[Key, Change]:
    """Return the changes between rows, paired by seed."""
    found = _both(before, after, lambda one: (one.key, one.policy, one.rate))
    changes = {}
    for key, sides in found.items():
        old, new = ({one.seed: one.attained for one in side} for side in sides)
        gain = paired_difference(new, old) if len(old.keys() & new.keys()) > 1 else None
        changes[key] = Change(_means(sides, lambda one: one.attained), _means(sides, lambda one: one.mean_ms), gain)
    return changes


def page(
    changes: Mapping[Key, Change],
    names: tuple[str, str],
    policies: Mapping[str, str],
    provenance: tuple[Mapping[str, object], Mapping[str, object]],
    rate_title: str = RATE,
) -> Page:
    """Return the page of ``changes``.

    Args:
        changes: by what they are of.
        names: of the two results.
        policies: what each policy does, in a line.
        provenance: of the two results, for readers.
        rate_title: what the rate is.

    Raises:
        EvaluationError: there are no changes, since the two have no run in common.
    """
    if not changes:
        raise EvaluationError("the two results have no scenario, policy and rate in common; run the same command twice")
    groups = names_of([group for group, _, _ in changes])
    return Page(
        title=f"{names[1]} compared with {names[0]}",
        introduction=(f"Changes from {names[0]} to {names[1]}; positive points mean more requests in time.",),
        policies={policy: policies.get(policy, "") for policy in dict.fromkeys(policy for _, policy, _ in changes)},
        sections=[
            _section(
                name,
                {(policy, rate): one for (other, policy, rate), one in changes.items() if other == group},
                rate_title,
            )
            for group, name in groups.items()
        ],
        provenance={
            f"{which}: {name}": value
            for which, origin in zip(names, provenance, strict=True)
            for name, value in origin.items()
        },
    )


def _both(before: Iterable[T], after: Iterable[T], key_of: Callable[[T], Key]) -> dict[Key, tuple[list[T], list[T]]]:
    """Return what both sides have, by key."""
    found: dict[Key, tuple[list[T], list[T]]] = {}
    for side, ones in enumerate((before, after)):
        for one in ones:
            found.setdefault(key_of(one), ([], []))[side].append(one)
    return {key: sides for key, sides in found.items() if all(sides)}


def _means(sides: tuple[Sequence[T], Sequence[T]], value: Callable[[T], float]) -> tuple[float, float]:
    old, new = (fmean(map(value, side)) for side in sides)
    return old, new


def _section(name: str, changes: Mapping[tuple[str, float], Change], rate_title: str) -> Section:
    certain: list[str] = []
    texts: list[list[str]] = []
    values: list[list[Value]] = []
    drawn: list[tuple[str, float, float]] = []
    for (policy, rate), one in changes.items():
        points = 100 * (one.shares[1] - one.shares[0])
        later_ms = one.means_ms[1] - one.means_ms[0]
        half = f" ± {100 * one.gain.half:.0f}" if one.gain is not None else ""
        if one.gain is not None and abs(one.gain.mean) > one.gain.half:
            certain.append(f"{policy} at {rate:g}: {points:+.0f}{half} points")
        drawn.append((policy, rate, points))
        texts.append([policy, f"{rate:g}", *(f"{share:.0%}" for share in one.shares), f"{points:+.1f}{half}",
                      *(f"{mean:.0f}" for mean in one.means_ms), f"{later_ms:+.0f}"])  # fmt: skip
        values.append([policy, rate, *one.shares, points, *one.means_ms, later_ms])
    headings = ("policy", rate_title, "in time before, share", "in time after, share", "change, points",
                "TTFT mean before, ms", "after, ms", "change, ms")  # fmt: skip
    told = "; ".join(certain) if certain else "no change in requests in time is larger than its interval"
    table = Table("changes", "What changed", headings, texts, values)
    return Section(name, f"{told}.", "", [charts.changes(drawn, f"{told}.", rate_title)], [table])
