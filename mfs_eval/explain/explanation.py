"""What is said about one request: its time by stage, by layer, and by hop of the flows that it waited for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from host_agent.protocol.stamp import Stage
from mfs_eval.errors import EvaluationError
from mfs_eval.explain.account import UNSEEN, Span, clipped, served, spans
from mfs_eval.explain.names import Names, layers_named
from mfs_eval.explain.recording import UNKNOWN_LEVEL, Recording
from mfs_eval.packet_level.flight_recorder import REASONS, Inputs, RecordedFlow
from mfs_eval.serving.metrics import RequestRecord

MS = 1e6
"""Nanoseconds in a millisecond."""
SHOWN_AHEAD = 3
"""Others that are named at a hop, those that took most time first."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ahead(_Model):
    """What a link served while a flow waited for it."""

    what: str
    level: int | None
    """Its level, if known; acknowledgements are listed at 0."""
    ms: float


class Hop(_Model):
    """Time that a flow spent in one state at one place, at one level."""

    state: str
    """``sending``, ``waiting for the NIC``, ``in a switch queue``, ``on the way``, or, of a real network,
    ``sending or waiting``."""
    place: str | None
    level: int | None
    ms: float
    behind: list[Ahead] = []


class Change(_Model):
    """A level that a flow got at a place."""

    time_ms: float
    """Since the request's arrival."""
    place: str
    before: int | None
    after: int
    reason: str
    inputs: str
    """What the decision saw: then and now."""


class Wait(_Model):
    """Time in which GPUs, or the decode server, waited for a flow."""

    stage: str
    batch: int
    layers: str
    start_ms: float
    """Since the request's arrival."""
    ms: float
    flow: str
    """The flow that ended last."""
    bytes: int
    resent: int
    dropped: int
    hops: list[Hop]
    changes: list[Change]


class Step(_Model):
    """The layers of a batch that are computed together, in milliseconds."""

    batch: int
    layers: str
    start_ms: float
    """Since the request's arrival."""
    reuse_ms: float
    compute_ms: float
    collective_ms: float


class Before(_Model):
    """A batch that the request's prefill unit computed while the request waited, in milliseconds of that time."""

    batch: int
    requests: list[int]
    ms: float
    reuse_ms: float
    compute_ms: float
    collective_ms: float


class Stages(_Model):
    """The time to first token (TTFT) by stage, in milliseconds; they add up to it."""

    queued: float
    reuse: float
    compute: float
    collective: float
    hand_over: float


class RunName(Protocol):
    """What tells a run from others."""

    @property
    def scenario(self) -> str:
        """The scenario's name."""
        ...

    @property
    def policy(self) -> str:
        """The policy's name."""
        ...

    @property
    def request_rate(self) -> float:
        """Requests per second."""
        ...

    @property
    def seed(self) -> int:
        """Of the arrivals."""
        ...


STAGE_NAMES = {
    "queued": "waiting for GPUs",
    "reuse": "waiting for reused KV",
    "compute": "computing",
    "collective": "collectives",
    "hand_over": "last KV to decode",
}


class Explanation(_Model):
    """One request in one run."""

    scenario: str
    policy: str
    request_rate: float
    seed: int
    recorded: bool = False
    """Whether this is of the run itself over real sockets; otherwise it was played again."""
    request: int
    """Its number in the trace."""
    arrival_s: float
    unit: str
    """The servers of its prefill unit."""
    decode_server: str
    computed_tokens: int
    local_tokens: int
    fetched_tokens: int
    ttft_ms: float
    objective_ms: float
    late_ms: float
    """Time after the deadline; negative if it was in time."""
    stages: Stages
    queued_behind: list[Before]
    steps: list[Step]
    waits: list[Wait]
    """The longest first."""
    hops: list[Hop]
    """The flows of ``waits`` together, by state, place and level, the longest first."""


def explain(recorder: Recording, names: Names, run: RunName, request: int, recorded: bool = False) -> Explanation:
    """Explain ``request``, by its number in the trace; ``recorded``: of the run itself, which was not played again.

    Raises:
        EvaluationError: the run has no such request.
    """
    record = recorder.requests.get(request)
    if record is None:
        numbers = sorted(recorder.requests)
        raise EvaluationError(
            f"the run has no request {request}; its requests have numbers from {numbers[0]} to {numbers[-1]}, as in "
            "the trace; leave the number out for a list"
        )
    steps = [step for batch in _batches_of(recorder, request) for step in played_steps(recorder, batch)]
    waits, hops = _waits(recorder, names, record, steps)
    return Explanation(
        scenario=run.scenario,
        policy=run.policy,
        request_rate=run.request_rate,
        seed=run.seed,
        recorded=recorded,
        request=request,
        arrival_s=record.arrival_ns / 1e9,
        unit=names.unit(record.unit),
        decode_server=names.server(record.decode_server),
        computed_tokens=record.new_tokens,
        local_tokens=record.local_tokens,
        fetched_tokens=record.fetched_tokens,
        ttft_ms=record.ttft_ns / MS,
        objective_ms=(record.deadline_ns - record.arrival_ns) / MS,
        late_ms=-record.earliness_ns / MS,
        stages=Stages(
            queued=record.queued_ns / MS,
            reuse=record.stage1_wait_ns / MS,
            compute=record.compute_ns / MS,
            collective=record.stage2_ns / MS,
            hand_over=record.tail_ns / MS,
        ),
        queued_behind=_queued_behind(recorder, record),
        steps=[step.model(record.arrival_ns) for step in steps],
        waits=waits,
        hops=hops,
    )


class PlayedStep:
    """A step of a batch: its layers, and when it began to wait, to compute, to exchange, and ended, in nanoseconds."""

    def __init__(self, batch: int, layers: tuple[int, int], times: tuple[int, int, int, int]) -> None:
        self.batch = batch
        self.layers = layers
        self.begin_ns, self.compute_ns, self.exchange_ns, self.end_ns = times

    def within(self, start_ns: int, end_ns: int) -> tuple[float, float, float]:
        """Return the milliseconds of waiting for reused KV, computing and exchanging between two times."""
        bounds = (self.begin_ns, self.compute_ns, self.exchange_ns, self.end_ns)
        first, second, third, fourth = (min(max(bound, start_ns), end_ns) for bound in bounds)
        return (second - first) / MS, (third - second) / MS, (fourth - third) / MS

    def model(self, origin_ns: int) -> Step:
        """Return it for readers, with times since ``origin_ns``."""
        reuse_ms, compute_ms, collective_ms = self.within(self.begin_ns, self.end_ns)
        return Step(
            batch=self.batch,
            layers=layers_named(*self.layers),
            start_ms=(self.begin_ns - origin_ns) / MS,
            reuse_ms=reuse_ms,
            compute_ms=compute_ms,
            collective_ms=collective_ms,
        )


def played_steps(recorder: Recording, batch: int) -> list[PlayedStep]:
    """Return the steps of a batch."""
    begin_ns, first = recorder.batches[batch].start_ns, 0
    found = []
    for advanced_ns, done in recorder.advances[batch]:
        # A real clock goes on between the calls that note the same event.
        end_ns = min(advanced_ns, recorder.batches[batch].end_ns)
        reused = _flows(recorder, batch, Stage.KV_REUSE, first)
        exchanged = _flows(recorder, batch, Stage.COLLECTIVE, first)
        compute_ns = min(max([begin_ns, *(flow.completed_ns for flow in reused)]), end_ns)
        exchange_ns = max(min((flow.opened_ns for flow in exchanged), default=end_ns), compute_ns)
        found.append(PlayedStep(batch, (first, done - 1), (begin_ns, compute_ns, exchange_ns, end_ns)))
        begin_ns, first = end_ns, done
    return found


def _batches_of(recorder: Recording, request: int) -> list[int]:
    return [number for number, batch in sorted(recorder.batches.items()) if request in batch.requests]


def _flows(recorder: Recording, batch: int, stage: Stage, layer: int) -> list[RecordedFlow]:
    return [
        flow
        for flow in recorder.flows
        if flow.spec.batch == batch and flow.spec.stage is stage and flow.spec.target_layer == layer
    ]


def _queued_behind(recorder: Recording, record: RequestRecord) -> list[Before]:
    begin_ns, end_ns = record.arrival_ns, record.arrival_ns + record.queued_ns
    found = []
    for number, batch in sorted(recorder.batches.items()):
        if batch.unit != record.unit or batch.start_ns >= end_ns or batch.end_ns <= begin_ns:
            continue
        parts = [step.within(begin_ns, end_ns) for step in played_steps(recorder, number)]
        reuse_ms, compute_ms, collective_ms = (sum(column) for column in zip(*parts, strict=True))
        found.append(
            Before(
                batch=number,
                requests=list(batch.requests),
                ms=(min(batch.end_ns, end_ns) - max(batch.start_ns, begin_ns)) / MS,
                reuse_ms=reuse_ms,
                compute_ms=compute_ms,
                collective_ms=collective_ms,
            )
        )
    return found


def _waits(
    recorder: Recording, names: Names, record: RequestRecord, steps: Sequence[PlayedStep]
) -> tuple[list[Wait], list[Hop]]:
    """Return the waits of a request, the longest first, and the hops of their flows together."""
    windows: list[tuple[str, int, str, int, int, list[RecordedFlow]]] = []
    for step in steps:
        layers = layers_named(*step.layers)
        for stage, start_ns, end_ns in (
            (Stage.KV_REUSE, step.begin_ns, step.compute_ns),
            (Stage.COLLECTIVE, step.exchange_ns, step.end_ns),
        ):
            flows = _flows(recorder, step.batch, stage, step.layers[0])
            key = "reuse" if stage is Stage.KV_REUSE else "collective"
            windows.append((key, step.batch, layers, start_ns, end_ns, flows))
    last = steps[-1]
    finish_ns = record.arrival_ns + record.ttft_ns
    handed = [flow for flow in recorder.flows if flow.spec.request == record.index]
    windows.append(("hand_over", last.batch, "the last layers", last.end_ns, finish_ns, handed))
    waits: list[Wait] = []
    everything: list[tuple[RecordedFlow, Span]] = []
    for key, batch, layers, start_ns, end_ns, flows in windows:
        if end_ns <= start_ns or not flows:
            continue
        flow = max(flows, key=lambda one: one.completed_ns)
        parts = [(flow, span) for span in clipped(spans(flow), start_ns, end_ns)]
        everything += parts
        waits.append(
            Wait(
                stage=STAGE_NAMES[key],
                batch=batch,
                layers=layers,
                start_ms=(start_ns - record.arrival_ns) / MS,
                ms=(end_ns - start_ns) / MS,
                flow=names.flow(flow),
                bytes=flow.spec.total_bytes,
                resent=flow.resent,
                dropped=flow.dropped,
                hops=_hops(recorder, names, parts),
                changes=_changes(names, flow, record.arrival_ns),
            )
        )
    return sorted(waits, key=lambda wait: -wait.ms), _hops(recorder, names, everything)


def _hops(recorder: Recording, names: Names, parts: Iterable[tuple[RecordedFlow, Span]]) -> list[Hop]:
    """Return spans of flows by state, place and level, the longest first, with what was served meanwhile."""
    lengths: defaultdict[tuple[str, str | None, int | None], int] = defaultdict(int)
    others: defaultdict[tuple[str, str | None, int | None], defaultdict[tuple[str, int], int]] = defaultdict(
        lambda: defaultdict(int)
    )
    for flow, span in parts:
        key = span.state, names.place(span.place) if span.place is not None else None, span.level
        lengths[key] += span.end_ns - span.start_ns
        taken: defaultdict[tuple[str, int], int] = defaultdict(int)
        for (other, level), taken_ns in served(recorder.links, span, flow).items():
            owner = names.owner(other), level
            # Those that share links with a flow do so at the same time.
            taken[owner] = max(taken[owner], taken_ns) if span.state == UNSEEN else taken[owner] + taken_ns
        for owner, taken_ns in taken.items():
            others[key][owner] += taken_ns
    return [
        Hop(
            state=state,
            place=place,
            level=level,
            ms=length / MS,
            behind=[
                Ahead(what=what, level=None if at == UNKNOWN_LEVEL else at, ms=length_ns / MS)
                for (what, at), length_ns in sorted(others[state, place, level].items(), key=lambda item: -item[1])[
                    :SHOWN_AHEAD
                ]
            ],
        )
        for (state, place, level), length in sorted(lengths.items(), key=lambda item: -item[1])
    ]


def _changes(names: Names, flow: RecordedFlow, origin_ns: int) -> list[Change]:
    found = []
    for change in flow.changes:
        now = _inputs(change.inputs)
        found.append(
            Change(
                time_ms=(change.time_ns - origin_ns) / MS,
                place=names.place(change.place),
                before=change.before,
                after=change.after,
                reason=REASONS[change.reason],
                inputs=now if change.earlier is None else f"{_inputs(change.earlier)} -> {now}",
            )
        )
    return found


def _inputs(inputs: Inputs) -> str:
    return (
        f"{inputs.rli} layers to go, slack {inputs.slack_us / 1e3:.1f} ms, {inputs.remaining_bytes / 1e3:.1f} KB left"
    )
