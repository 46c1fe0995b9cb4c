"""Policies as TOML files: the built-in ones and yours (``docs/guide/write-a-scheduler.md``)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from host_agent.protocol.level import CODE_MAX
from mfs_ctrl.errors import PolicyError
from mfs_ctrl.policy import BUILTIN, SUFFIX, builtin_names
from mfs_ctrl.policy.coverage import shadowed, uncovered
from mfs_ctrl.policy.policy import Policy, Rule, Span, Thresholds, described
from mfs_ctrl.policy.quantities import Dimension, code_of
from mfs_ctrl.policy.tuning import Level, LoadBias, LoopByRule, StageByName, TrackLateShare


def load(name_or_path: str | Path) -> Policy:
    """Return the built-in policy of that name, or the one that a TOML file describes.

    Raises:
        PolicyError: there is no such policy, or the file is wrong; the message names file, key and what is allowed.
    """
    text = str(name_or_path)
    if text in builtin_names():
        return _builtin(text)
    path = Path(name_or_path)
    if path.suffix != SUFFIX:
        raise PolicyError(
            f"there is no policy {text!r}; the built-in ones are {', '.join(builtin_names())}; "
            f"a policy file ends in {SUFFIX}"
        )
    return _load(path)


@cache
def _builtin(name: str) -> Policy:
    return _load(BUILTIN / f"{name}{SUFFIX}")


def _load(path: Path) -> Policy:
    try:
        return _parsed(_merged(path, ()))
    except PolicyError as error:
        message = str(error)
        raise PolicyError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def _merged(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """Return the file's tables, on top of those of the policy that it extends."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: this is not TOML: {error}") from None
    base = document.pop("extends", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise PolicyError(f"extends: the name of a policy or of a file, not {base!r}")
    below = BUILTIN / f"{base}{SUFFIX}" if base in builtin_names() else path.parent / base
    chain = (*extending, path.resolve())
    if below.resolve() in chain:
        raise PolicyError(f"extends: {base} extends itself")
    return _over(_merged(below, chain), document)


def _over(base: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in document.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _span(value: Any) -> Any:
    return {"min": value, "max": value} if isinstance(value, int | str) else value


def _stages(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Bound = StrictInt | StrictStr


class _Span(_Table):
    min: Bound | None = None
    max: Bound | None = None
    below: Bound | None = None


_SpanOrValue = Annotated[_Span, BeforeValidator(_span)]


class _Rule(_Table):
    stage: Annotated[tuple[StageByName, ...], BeforeValidator(_stages), Field(min_length=1)]
    level: Level
    late: Annotated[bool | None, Field(strict=True)] = None
    rli: _SpanOrValue = _Span()
    urgency: _SpanOrValue = _Span()
    slack: _SpanOrValue = _Span()
    remaining: _SpanOrValue = _Span()


class _Document(_Table):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str
    rules: Annotated[tuple[_Rule, ...], Field(min_length=1)]
    thresholds: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Bound] = Field(default_factory=dict)
    tuning: dict[str, LoopByRule] = Field(default_factory=dict)
    load: LoadBias = LoadBias()


def _parsed(document: Mapping[str, Any]) -> Policy:
    """Return the policy that a complete document describes. Rules are counted from 1.

    Raises:
        PolicyError: it is incomplete or contradicts itself; the message names the key.
    """
    try:
        checked = _Document.model_validate(document)
    except ValidationError as error:
        raise PolicyError(described(error)) from None
    codes, dimensions = _thresholds(checked)
    templates: list[Rule] = []
    places: list[str] = []
    for number, rule in enumerate(checked.rules, 1):
        place = f"rules.{number}"
        late = (0, 1) if rule.late is None else (int(rule.late), int(rule.late))
        spans = {
            dimension: _resolved(span, dimension, dimensions, f"{place}.{dimension.name.lower()}")
            for dimension, span in (
                (Dimension.RLI, rule.rli),
                (Dimension.URGENCY, rule.urgency),
                (Dimension.SLACK, rule.slack),
                (Dimension.REMAINING, rule.remaining),
            )
        }
        for stage in rule.stage:
            templates.append(Rule(stage, rule.level, late, *spans.values()))
            places.append(f"{place} ({stage.name})" if len(rule.stage) > 1 else place)
    policy = Policy(
        checked.name, tuple(templates), Thresholds(codes), checked.tuning, checked.load, checked.description
    )
    _check_rules(policy, places)
    _check_thresholds(policy)
    return policy


def _thresholds(document: _Document) -> tuple[dict[str, int], dict[str, Dimension | None]]:
    """Return the codes of the thresholds, and the dimensions of those that have a unit."""
    codes, dimensions = {}, {}
    for name, value in document.thresholds.items():
        codes[name], dimensions[name] = _code(value, f"thresholds.{name}")
    return codes, dimensions


def _code(value: int | str, place: str) -> tuple[int, Dimension | None]:
    if isinstance(value, int):
        if not 0 <= value <= CODE_MAX:
            raise PolicyError(f"{place}: a code is 0 to {CODE_MAX}, not {value}")
        return value, None
    try:
        quantity = code_of(value)
    except ValueError as error:
        raise PolicyError(f"{place}: {error}") from None
    if quantity is None:
        units = ", ".join(f"{dimension.name.lower()} in {dimension.value}" for dimension in Dimension)
        raise PolicyError(f"{place}: {value!r} is neither a code of 0 to {CODE_MAX} nor a quantity ({units})")
    return quantity


def _resolved(span: _Span, dimension: Dimension, thresholds: Mapping[str, Dimension | None], place: str) -> Span:
    """Return ``span`` with its quantities as codes; names of thresholds stay names."""

    def end(value: int | str, key: str) -> int | str:
        where = f"{place}.{key}"
        if isinstance(value, str) and value in thresholds:
            of: Dimension | None = thresholds[value]
            found: int | str = value
        elif isinstance(value, str) and value.isidentifier():
            have = f", which has {', '.join(thresholds)}" if thresholds else ""
            raise PolicyError(f"{where}: there is no threshold {value!r}; add it to [thresholds]{have}")
        else:
            found, of = _code(value, where)
        if of not in (None, dimension):
            assert of is not None
            raise PolicyError(
                f"{where}: {dimension.name.lower()} is compared with {dimension.value}, not with {of.name.lower()}"
            )
        return found

    if span.max is not None and span.below is not None:
        raise PolicyError(f"{place}: give max (included) or below (excluded), not both")
    low = 0 if span.min is None else end(span.min, "min")
    if span.below is not None:
        return Span(low, end(span.below, "below"), below=True)
    return Span(low, CODE_MAX if span.max is None else end(span.max, "max"))


def _check_rules(policy: Policy, places: list[str]) -> None:
    """Check that every packet gets a level, wherever the tuner moves thresholds, and that every rule may apply.

    Raises:
        PolicyError: some packet gets no level, or a rule matches nothing.
    """
    rows = []
    for template, place in zip(policy.templates, places, strict=True):
        row = template.at(policy.thresholds) if isinstance(template, Rule) else template
        if row is None:
            raise PolicyError(f"{place} matches nothing: one of its ranges ends before it begins")
        rows.append(row)
    if (index := shadowed(rows)) is not None:
        raise PolicyError(f"{places[index]} never applies, because earlier rules match first; move it up or remove it")
    for thresholds in (policy.thresholds, *_corners(policy)):
        if (key := uncovered(policy.at(thresholds).rules)) is not None:
            moved = (
                "" if thresholds == policy.thresholds else f" when tuning has moved thresholds to {dict(thresholds)}"
            )
            raise PolicyError(
                f"no rule gives a level to stage {key.stage.name}, {'late' if key.late else 'in time'}, rli {key.rli}, "
                f"urgency {key.urgency}, slack {key.slack_code}, remaining {key.remaining_code} (codes){moved}; add a "
                f'last rule for the stage: {{ stage = "{key.stage.name}", level = 1 }}'
            )


def _corners(policy: Policy) -> list[Thresholds]:
    """Return the thresholds with each tuned one at either of its bounds."""
    bounds = [[(name, code) for code in loop.bounds] for name, loop in policy.tuning.items()]
    return [policy.thresholds.replace(**dict(corner)) for corner in product(*bounds)]


def _check_thresholds(policy: Policy) -> None:
    """Check that every threshold is used, and used as its loop expects.

    Raises:
        PolicyError: a threshold is not used, or a loop would move it the wrong way.
    """
    spans = [
        (dimension, span)
        for rule in policy.templates
        if isinstance(rule, Rule)
        for dimension, span in rule.spans.items()
    ]
    for name in policy.thresholds:
        uses = {(dimension, "min" if span.low == name else "max") for dimension, span in spans if name in span.names}
        if not uses:
            raise PolicyError(f"thresholds.{name} is used by no rule; use it or remove it")
        if name in policy.tuning:
            loop = policy.tuning[name]
            late = isinstance(loop, TrackLateShare)
            wanted = (Dimension.URGENCY, "min") if late else (Dimension.SLACK, "max")
            if uses != {wanted}:
                raise PolicyError(
                    f"tuning.{name}: {loop.rule} moves a threshold that rules use as "
                    f"{wanted[0].name.lower()}.{wanted[1]} and nowhere else"
                )
