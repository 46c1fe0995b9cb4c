"""Which blocks of a request have been sent, and which have arrived. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from host_agent.engines.errors import TransferError


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks of a request to push in one step.

    Attributes:
        first: number of the first block within the request.
        end: number after the last one.
        last: whether the request is complete with it.
    """

    first: int
    end: int
    last: bool


@dataclass(slots=True)
class PushedBlocks:
    """Blocks of a prompt that have been handed to the push, through chunks, preemptions and prefix-cache hits.

    Attributes:
        prompt_tokens: length of the prompt.
        block_tokens: tokens per block.
        pushed: number of leading blocks that are pushed.
        complete: whether all are.
    """

    prompt_tokens: int
    block_tokens: int
    pushed: int = 0
    complete: bool = False

    @property
    def total(self) -> int:
        """Number of blocks of the prompt."""
        return -(-self.prompt_tokens // self.block_tokens)

    def computed(self, tokens: int) -> Part | None:
        """Return what to push after a step that computes the prompt's KV up to ``tokens``; None if nothing.

        A block that later chunks fill further waits for them. What a preempted request computes again is not pushed
        again.
        """
        if self.complete:
            return None
        last = tokens >= self.prompt_tokens
        end = self.total if last else tokens // self.block_tokens
        if end <= self.pushed:
            return None
        part = Part(self.pushed, end, last)
        self.pushed, self.complete = end, last
        return part


@dataclass(slots=True)
class ReceivedBlocks:
    """Blocks of a transfer that have arrived.

    Attributes:
        layers: number of layers.
        first: first block that is needed; the ones before it are in the prefix cache.
        total: number of blocks of the request.
    """

    layers: int
    first: int
    total: int
    _arrived: list[set[int]] = field(init=False)

    def __post_init__(self) -> None:
        self._arrived = [set() for _ in range(self.layers)]

    def check(self, layer: int, first: int, blocks: int) -> None:
        """Check that blocks ``first`` to ``first + blocks - 1`` of ``layer`` belong to the transfer.

        Raises:
            TransferError: they do not.
        """
        if not (0 <= layer < self.layers and blocks > 0 and self.first <= first and first + blocks <= self.total):
            raise TransferError(
                f"blocks {first} to {first + blocks - 1} of layer {layer} are outside the transfer: "
                f"blocks {self.first} to {self.total - 1} of {self.layers} layers"
            )

    def add(self, layer: int, first: int, blocks: int) -> None:
        """Note that these blocks arrived. Arriving twice does no harm.

        Raises:
            TransferError: they do not belong to the transfer.
        """
        self.check(layer, first, blocks)
        self._arrived[layer].update(range(first, first + blocks))

    @property
    def missing(self) -> int:
        """Number of blocks, over all layers, that have not arrived."""
        return self.layers * (self.total - self.first) - sum(len(layer) for layer in self._arrived)
