"""Tuning of a policy, as data: which threshold follows which measurement, on which stages and levels.

A policy declares its loops; :mod:`mfs_ctrl.policy.tuner` runs them and knows no policy. Steps and bounds are codes,
eight per octave; bounds may also be quantities with a unit (:mod:`mfs_ctrl.policy.quantities`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from host_agent.protocol.level import CODE_MAX
from host_agent.protocol.stamp import TOP_LEVEL, Stage
from mfs_ctrl.policy.quantities import code_of


def stage_named(value: Any) -> Stage:
    """Return the stage with the name ``value``.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if isinstance(value, Stage):
        return value
    if isinstance(value, str) and value in Stage.__members__:
        return Stage[value]
    raise ValueError(f"there is no stage {value!r}; stages are {', '.join(Stage.__members__)}")


def _code(value: Any) -> Any:
    quantity = code_of(value) if isinstance(value, str) else None
    return value if quantity is None else quantity[0]


def _rising(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the bounds {list(bounds)} must rise")
    return bounds


StageByName = Annotated[Stage, BeforeValidator(stage_named)]
Level = Annotated[int, Field(ge=0, le=TOP_LEVEL, strict=True)]
Codes = Annotated[int, Field(ge=1, le=CODE_MAX, strict=True)]
Code = Annotated[int, BeforeValidator(_code), Field(ge=0, le=CODE_MAX, strict=True)]
Bounds = Annotated[tuple[Code, Code], AfterValidator(_rising)]
Share = Annotated[float, Field(gt=0, lt=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrackLateShare(_Settings):
    """Move a threshold of urgency until ``late_target`` of a stage's flows miss their deadline.

    Flows at or above the threshold are promoted. Misses of ``compared_with`` are subtracted first: a batch that was
    late before its last stage began is not helped by promoting that stage. Above the target the threshold falls
    (earlier promotion). Below half of the target it rises, provided that promoted flows finish with slack to spare.
    In between it stays, which is the hysteresis. The stride doubles while the direction stays and restarts at one code
    after a turn.

    Attributes:
        stage: the stage whose flows the threshold promotes.
        compared_with: stages whose late share is subtracted.
        promoted_level: the level above the threshold.
        late_target: share of the stage's flows that may miss for lack of an earlier promotion.
        min_completions: flows of the stage that must have finished before anything moves.
        settle_ticks: ticks after a move whose evidence is discarded, because flows that finish then were promoted at
            the old threshold. A tick should be as long as most flows live.
        step: largest move towards earlier promotion.
        later_step: largest move towards later promotion; smaller, because a miss costs more than an early finish.
        gain: codes to move for an excess as large as the target, as far as the stride allows.
        bounds: least and greatest threshold. A start outside returns one stride at a time.
        spare_octaves: promotion moves later only while the median slack left by promoted flows exceeds the 90th
            percentile of ``compared_with`` (what a new request has) divided by 2 to the power of this.
    """

    rule: Literal["track-late-share"] = "track-late-share"
    stage: StageByName
    compared_with: tuple[StageByName, ...] = ()
    promoted_level: Level = TOP_LEVEL
    late_target: Share = 0.05
    min_completions: int = Field(default=40, ge=1)
    settle_ticks: int = Field(default=1, ge=0)
    step: Codes = 8
    later_step: Codes = 4
    gain: float = Field(default=4.0, gt=0)
    bounds: Bounds
    spare_octaves: int = Field(default=2, ge=0)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages whose finished flows are evidence."""
        return (self.stage, *self.compared_with)


class TrackMedianSlack(_Settings):
    """Move a threshold of slack towards the median, so that about ``target`` of the packets are on its tight side.

    Attributes:
        stages: stages whose finished flows give the median.
        packets_of: stage whose packets are counted on either side.
        tight_level: level of its packets up to the threshold.
        loose_level: level of its packets above the threshold.
        min_packets: packets that must have been seen before the threshold moves.
        target: share of the packets that should be on the tight side.
        band: distance from the target at which nothing moves.
        step: largest move.
        bounds: least and greatest threshold.
    """

    rule: Literal["track-median-slack"] = "track-median-slack"
    stages: tuple[StageByName, ...] = Field(min_length=1)
    packets_of: StageByName
    tight_level: Level
    loose_level: Level
    min_packets: int = Field(default=1000, ge=0)
    target: Share = 0.5
    band: float = Field(default=0.15, ge=0, lt=0.5)
    step: Codes = 8
    bounds: Bounds

    @model_validator(mode="after")
    def _two_levels(self) -> TrackMedianSlack:
        if self.tight_level == self.loose_level:
            raise ValueError(
                f"tight_level and loose_level are both {self.tight_level}, so the two sides cannot be distinguished"
            )
        return self


Loop = TrackLateShare | TrackMedianSlack
RULES = ("track-late-share", "track-median-slack")
"""Names of the kinds of loops in a policy file."""
LoopByRule = Annotated[Loop, Field(discriminator="rule")]


class LoadBias(_Settings):
    """Which traffic counts as load of a port, for the bias that turns remaining bytes and slack into urgency.

    The bandwidth that urgency is computed with is B(1 - rho) (paper section 4.1), where rho is the load by traffic that
    goes before the flows in question.

    Attributes:
        levels: levels of the traffic that counts; without any, the bias is that of an idle port.
        weight: weight of the newest interval in the smoothed load.
        limit: greatest load that the bias takes into account.
        hysteresis: least difference, in codes, for which a bias is rewritten.
    """

    levels: tuple[Level, ...] = ()
    weight: float = Field(default=0.3, gt=0, le=1)
    limit: float = Field(default=0.9, ge=0, lt=1)
    hysteresis: Codes = 2
