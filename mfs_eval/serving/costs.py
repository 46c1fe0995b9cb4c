"""Sizes and times of prefill from the published shapes of models and the published peak rates of GPUs.

Pure functions. Floating-point operations count a multiply-add as two. What the formulas leave out: norms, activation
functions, rotary embedding, softmax and the output head of the one token that is predicted, together about 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from host_agent.protocol.units import NS_PER_S
from mfs_eval.errors import ModelError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The shape of a decoder-only transformer with grouped-query attention and gated feed-forward experts.

    Attributes:
        name: published name.
        layers: decoder layers.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of one head.
        intermediate: inner width of one expert (three matrices of hidden x intermediate).
        experts: experts per layer; 1 for a dense model.
        experts_per_token: experts that compute each token.
        vocab: size of the vocabulary.
        bytes_per_element: of the KV cache and of activations on the wire (2 for BF16, 1 for FP8).
        shared_intermediate: inner width of a feed-forward part that computes every token beside its experts; 0: none.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    experts: int
    experts_per_token: int
    vocab: int
    bytes_per_element: int = 2
    shared_intermediate: int = 0

    def with_bytes_per_element(self, count: int) -> ModelShape:
        """The same model whose KV cache and activations take ``count`` bytes an element."""
        return replace(self, bytes_per_element=count)


@dataclass(frozen=True, slots=True)
class GPU:
    """A GPU.

    Attributes:
        name: product name and number format.
        peak_flops: peak dense floating-point operations per second in that format.
        memory_bytes: size of its memory.
        efficiency: share of the peak that prefill reaches. 0.5 is what tuned prefill kernels get on long prompts.
    """

    name: str
    peak_flops: float
    memory_bytes: int
    efficiency: float = 0.5

    def with_efficiency(self, efficiency: float) -> GPU:
        """The same GPU at another share of its peak.

        Raises:
            ModelError: not within 0 (excluded) to 1.
        """
        if not 0 < efficiency <= 1:
            raise ModelError(f"efficiency of a GPU is a share of its peak above 0 and up to 1, not {efficiency}")
        return replace(self, efficiency=efficiency)


# From the config.json that each publisher ships with the weights on Hugging Face.
MIXTRAL_8X7B = ModelShape("Mixtral-8x7B", 32, 4096, 32, 8, 128, 14336, 8, 2, 32000)
MIXTRAL_8X22B = ModelShape("Mixtral-8x22B", 56, 6144, 48, 8, 128, 16384, 8, 2, 32768)
DBRX = ModelShape("DBRX", 40, 6144, 48, 8, 128, 10752, 16, 4, 100352)
QWEN3_CODER = ModelShape("Qwen3-Coder-480B-A35B", 62, 6144, 96, 8, 128, 2560, 160, 8, 151936)
GROK_2 = ModelShape("Grok-2", 64, 8192, 64, 8, 128, 16384, 8, 2, 131072, shared_intermediate=32768)
LLAMA3_8B = ModelShape("Llama3-8B", 32, 4096, 32, 8, 128, 14336, 1, 1, 128256)

# Dense tensor-core rates (half of the "with sparsity" figure) from NVIDIA's A100, H100 (SXM5) and HGX B200 data sheets,
# and for the RTX 3090 from the GA102 whitepaper (FP16 with FP32 accumulation).
_GB = 10**9
A100 = GPU("A100", 312e12, 80 * _GB)
H100 = GPU("H100", 989e12, 80 * _GB)
B200 = GPU("B200", 2250e12, 180 * _GB)
B200_FP8 = GPU("B200-FP8", 4500e12, 180 * _GB)
RTX3090 = GPU("RTX3090", 71e12, 24 * _GB)


def parameters(shape: ModelShape) -> int:
    """All weights: attention, experts, router, embedding and output head; norms and biases left out."""
    attention = shape.hidden * shape.head_dim * 2 * (shape.heads + shape.kv_heads)
    router = shape.hidden * shape.experts if shape.experts > 1 else 0
    feed_forward = 3 * shape.hidden * (shape.experts * shape.intermediate + shape.shared_intermediate)
    return shape.layers * (attention + router + feed_forward) + 2 * shape.vocab * shape.hidden


def kv_bytes_per_token_layer(shape: ModelShape) -> int:
    """Bytes of KV cache that one token leaves in one layer: a key and a value per KV head."""
    return 2 * shape.kv_heads * shape.head_dim * shape.bytes_per_element


def projection_flops_per_layer(shape: ModelShape, tokens: int) -> int:
    """Operations of the query, key, value and output projections of ``tokens`` tokens."""
    return 2 * tokens * shape.hidden * shape.head_dim * 2 * (shape.heads + shape.kv_heads)


def attention_flops_per_layer(shape: ModelShape, tokens: int, context: int) -> int:
    """Operations of causal attention: ``tokens`` new tokens after ``context`` tokens whose KV is there already.

    The i-th new token attends to context + i keys (itself included): a score and a weighted value for each, two
    operations per element and head.
    """
    keys = tokens * context + tokens * (tokens + 1) // 2
    return 4 * shape.heads * shape.head_dim * keys


def expert_flops_per_layer(shape: ModelShape, tokens: int) -> int:
    """Operations of the experts that ``tokens`` tokens are routed to, of the shared part, and of the router."""
    router = 2 * tokens * shape.hidden * shape.experts if shape.experts > 1 else 0
    width = shape.experts_per_token * shape.intermediate + shape.shared_intermediate
    return 2 * tokens * 3 * shape.hidden * width + router


def prefill_flops_per_layer(shape: ModelShape, tokens: int, context: int) -> int:
    """All operations of one layer for ``tokens`` new tokens of one prompt after ``context`` tokens of it."""
    return (
        projection_flops_per_layer(shape, tokens)
        + attention_flops_per_layer(shape, tokens, context)
        + expert_flops_per_layer(shape, tokens)
    )


def compute_ns(flops: int, gpu: GPU, gpus: int) -> int:
    """Nanoseconds (at least 1) that ``gpus`` GPUs, evenly loaded, take for ``flops`` operations."""
    return max(1, round(flops * NS_PER_S / (gpu.peak_flops * gpu.efficiency * gpus)))


def all_to_all_bytes_per_layer(shape: ModelShape, tokens: int) -> int:
    """Bytes that expert parallelism exchanges for ``tokens`` tokens in one layer, those within a server included.

    Dispatch sends each token's activations to each of its experts, combine sends the results back. 0 for dense models,
    which are taken to run tensor-parallel within a server.
    """
    if shape.experts == 1:
        return 0
    return 2 * tokens * shape.experts_per_token * shape.hidden * shape.bytes_per_element


def cross_server_fraction(servers: int) -> float:
    """Share of the all-to-all bytes that leaves its server, tokens and experts spread evenly over ``servers``.

    What stays within a server goes over NVLink and costs the network nothing.
    """
    return (servers - 1) / servers


def all_to_all_bytes_per_server_pair(shape: ModelShape, tokens: int, servers: int) -> int:
    """Bytes per layer from one server to one other (dispatch and combine together), spread evenly."""
    return all_to_all_bytes_per_layer(shape, tokens) // (servers * servers)


def sequence_gather_bytes_per_server_pair(shape: ModelShape, tokens: int, servers: int) -> int:
    """Bytes per layer from one server to one other where a sequence of ``tokens`` tokens is spread over ``servers``.

    In attention every rank needs the keys and values of all tokens, and has those of its own (ring attention, or an
    all-gather). A server takes them over the network once; within it they go over NVLink.
    """
    return tokens * kv_bytes_per_token_layer(shape) // servers
