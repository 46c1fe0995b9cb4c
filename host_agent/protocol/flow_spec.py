"""Description of a flow of a simulated host, and the limits of a flow's fields."""

from __future__ import annotations

from dataclasses import dataclass

from host_agent.protocol.stamp import Stage

LAYER_MAX = 255
PROGRESS_BATCHES = 65_536
"""Number of batches whose progress an agent remembers; the oldest is forgotten first."""
FLOW_NUMBERS = 1 << 16
"""Number of flow numbers in a batch."""


class FlowError(ValueError):
    """An invalid flow, or a call that the flow's state does not allow; the message says what to do instead."""


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """Purpose of a flow.

    Attributes:
        destination: receiving host.
        batch: batch whose progress the flow shares; 0 for none. Switches remember progress, so batch numbers must not
            be reused soon: after a restart, begin at a random one.
        stage: stage of the flow.
        deadline_ns: for stages 1 and 2 the batch's robust effective deadline (RED), for stage 3 the request's deadline.
        total_bytes: bytes that will be written in total.
        target_layer: layer that consumes the data; for stage 3 the number of layers.
        beyond_bytes: bytes of the same request that follow this flow; they count as remaining.
        request: the only request that needs the flow, so that the flow can be pruned with it; not stamped.
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
                "a flow needs total_bytes of 1 byte or more and beyond_bytes of 0 or more, not "
                f"{self.total_bytes} and {self.beyond_bytes}"
            )
        if not 0 <= self.target_layer <= LAYER_MAX:
            raise FlowError(f"target_layer {self.target_layer} is not in 0..{LAYER_MAX}")
