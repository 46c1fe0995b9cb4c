"""What the workers are to do in a step: the scheduler's side of the connector, without vLLM. Pure.

Prefill batches: requests whose whole prompt is computed in one step are a batch, and their flows share its progress. A
request whose prompt is computed in chunks is a batch of its own, whose progress counts the layers of its last chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from host_agent.engines.coverage import PushedBlocks
from host_agent.engines.params import Address, TransferParams
from host_agent.protocol.effective_deadline import robust_effective_deadline
from host_agent.protocol.flow_request import BATCH_MAX


@dataclass(frozen=True, slots=True)
class PushStep:
    """Blocks that a step computes, or finds in the prefix cache, for one request.

    Attributes:
        request: id of the request.
        transfer, to, store: where they go; see :class:`~host_agent.engines.params.TransferParams`.
        keys: names of the prompt's full blocks, for the store.
        first: number of the first block within the request.
        block_ids: the blocks.
        total: number of blocks of the prompt.
        last: whether the prompt is complete with them.
        batch: prefill batch.
        deadline_ns: on CLOCK_MONOTONIC.
    """

    request: str
    transfer: str
    to: Address | None
    store: Address | None
    keys: tuple[str, ...]
    first: int
    block_ids: tuple[int, ...]
    total: int
    last: bool
    batch: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class ReceiveStep:
    """A request that now waits for its push; see :meth:`host_agent.engines.receive.Receiver.expect`."""

    request: str
    transfer: str
    block_ids: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class FetchStep:
    """A prefix that the step needs; see :class:`host_agent.engines.fetch.Fetch`."""

    request: str
    address: Address
    keys: tuple[str, ...]
    first: int
    block_ids: tuple[int, ...]
    batch: int
    deadline_ns: int


@dataclass(slots=True)
class StepPlan:
    """What the workers do in one step.

    Attributes:
        pushes, receives, fetches: see above.
        ended: requests that ended, in whatever way.
        computing: batches whose progress is the layer of this step.
        tightest_ns: deadline of its most urgent prefill, on CLOCK_MONOTONIC; None without one.
        tokens: that it computes, those of other requests included.
    """

    pushes: list[PushStep] = field(default_factory=list)
    receives: list[ReceiveStep] = field(default_factory=list)
    fetches: list[FetchStep] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    computing: list[int] = field(default_factory=list)
    tightest_ns: int | None = None
    tokens: int = 0


@dataclass(slots=True)
class _Prefill:
    params: TransferParams
    blocks: PushedBlocks
    deadline_ns: int
    keys: tuple[str, ...]
    block_ids: list[int] = field(default_factory=list)
    batch: int = 0
    fetch: tuple[int, int] | None = None
    """First block that is fetched, and the number after the last one."""


@dataclass(frozen=True, slots=True)
class _Scheduled:
    request: str
    tokens: int


def batch_numbers(start: int) -> Iterator[int]:
    """Yield batch numbers from ``start`` on, never 0. Begin at a random one: switches remember recent batches."""
    number = start
    while True:
        number = number % BATCH_MAX + 1
        yield number


class Planner:
    """Collects what the scheduler decides, and turns it into the plan of a step."""

    def __init__(self, block_tokens: int, batches: Iterator[int]) -> None:
        self._block_tokens = block_tokens
        self._batches = batches
        self._prefills: dict[str, _Prefill] = {}
        self._scheduled: list[_Scheduled] = []
        self._plan = StepPlan()

    def receive(self, request: str, transfer: str, block_ids: Sequence[int], computed_tokens: int) -> None:
        """A request has blocks for its prompt, of which the first ``computed_tokens`` are in the prefix cache."""
        first = computed_tokens // self._block_tokens
        self._plan.receives.append(ReceiveStep(request, transfer, tuple(block_ids), first))

    def prefill(
        self, request: str, params: TransferParams, prompt_tokens: int, deadline_ns: int, keys: tuple[str, ...]
    ) -> None:
        """A request is about to be computed here. A request that is known already stays as it is."""
        if request not in self._prefills:
            blocks = PushedBlocks(prompt_tokens, self._block_tokens)
            self._prefills[request] = _Prefill(params, blocks, deadline_ns, keys)

    def fetch(self, request: str, computed_tokens: int, fetched_tokens: int) -> None:
        """A request's blocks after the first ``computed_tokens`` are to be fetched."""
        first = computed_tokens // self._block_tokens
        self._prefills[request].fetch = first, first + fetched_tokens // self._block_tokens

    def scheduled(self, request: str, computed_tokens: int, new_blocks: Sequence[int], *, replaced: bool) -> None:
        """A step computes a request's tokens up to ``computed_tokens``.

        Args:
            request: id of the request; others than those of :meth:`prefill` do not matter.
            computed_tokens: computed at the end of the step.
            new_blocks: blocks that it got.
            replaced: whether they are all of its blocks, instead of further ones.
        """
        if (prefill := self._prefills.get(request)) is None:
            return
        prefill.block_ids = [*new_blocks] if replaced else [*prefill.block_ids, *new_blocks]
        self._scheduled.append(_Scheduled(request, computed_tokens))

    def ended(self, request: str) -> None:
        """A request has ended: finished, or aborted."""
        self._prefills.pop(request, None)
        self._plan.ended.append(request)

    def take(self) -> StepPlan:
        """Return the plan of the step, and begin the next one."""
        plan, self._plan = self._plan, StepPlan()
        scheduled, self._scheduled = self._scheduled, []
        # A request may end between the scheduler's decision and the step.
        steps = [(each, self._prefills[each.request]) for each in scheduled if each.request in self._prefills]
        plan.tightest_ns = min((prefill.deadline_ns for _, prefill in steps), default=None)
        whole = [
            prefill for each, prefill in steps if not prefill.batch and each.tokens >= prefill.blocks.prompt_tokens
        ]
        if whole:
            shared = next(self._batches)
            for prefill in whole:
                prefill.batch = shared
        for each, prefill in steps:
            prefill.batch = prefill.batch or next(self._batches)
            if prefill.fetch is not None:
                plan.fetches.append(self._fetch_step(each.request, prefill, whole))
                prefill.fetch = None
            if (part := prefill.blocks.computed(each.tokens)) is not None:
                if part.last and prefill.batch not in plan.computing:
                    plan.computing.append(prefill.batch)
                plan.pushes.append(
                    PushStep(
                        request=each.request,
                        transfer=prefill.params.transfer or "",
                        to=prefill.params.to,
                        store=prefill.params.store,
                        keys=prefill.keys,
                        first=part.first,
                        block_ids=tuple(prefill.block_ids[part.first : part.end]),
                        total=prefill.blocks.total,
                        last=part.last,
                        batch=prefill.batch,
                        deadline_ns=prefill.deadline_ns,
                    )
                )
        return plan

    def _fetch_step(self, request: str, prefill: _Prefill, whole: Sequence[_Prefill]) -> FetchStep:
        assert prefill.fetch is not None
        assert prefill.params.fetch is not None
        first, end = prefill.fetch
        together = whole if any(each is prefill for each in whole) else [prefill]
        return FetchStep(
            request=request,
            address=prefill.params.fetch,
            keys=prefill.keys[:end],
            first=first,
            block_ids=tuple(prefill.block_ids[first:end]),
            batch=prefill.batch,
            deadline_ns=robust_effective_deadline(each.deadline_ns for each in together),
        )
