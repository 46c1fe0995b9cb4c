"""What a flow is for, as an application tells the host agent."""

from __future__ import annotations

from dataclasses import dataclass

from host_agent.protocol.stamp import Stage

LAYER_MAX = 255
PROGRESS_BATCHES = 65_536
"""Batches whose progress an agent remembers; the first learnt is forgotten first."""
FLOW_NUMBERS = 1 << 16
"""Flow numbers in a batch."""


class FlowError(ValueError):
    """A flow that cannot be, or a call that its state does not allow; the message names the way out."""


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """What a flow is for.

    Attributes:
        destination: the host that it goes to.
        batch: identity that shares progress; 0 for none. Switches remember progress, so a batch number must not come
            back soon: after a restart, begin at a random one.
        stage: what it carries.
        deadline_ns: of stages 1 and 2 the batch's RED, of stage 3 the request's deadline.
        total_bytes: what will be written in all.
        target_layer: the layer that consumes the data; of stage 3 the number of layers.
        beyond_bytes: bytes of the same request still to come after this flow, which count as remaining.
        request: the request that alone needs it, so that it may be pruned (:meth:`Agent.prune`); not stamped.
    """

    destination: int
    batch: int
    stage: Stage
    deadline_ns: int
    total_bytes: int
    target_layer: int = 0
    beyond_bytes: int = 0
    request: int | None = None

    def __post_init__(self) -> None:
        if self.total_bytes < 1 or self.beyond_bytes < 0:
            raise FlowError(
                f"a flow has 1 byte or more, and none fewer beyond: {self.total_bytes}, {self.beyond_bytes}"
            )
        if not 0 <= self.target_layer <= LAYER_MAX:
            raise FlowError(f"target_layer {self.target_layer} is not in 0..{LAYER_MAX}")
