"""Sizes and times of prefill from the published shapes of models and the published peak rates of GPUs.

A multiply-add counts as two floating-point operations. The formulas leave out norms, activation functions, rotary
embedding, softmax and the output head of the one predicted token, together about 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from host_agent.protocol.units import NS_PER_S


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
        bytes_per_element: size of an element of the KV cache and of activations on the wire (2 for BF16, 1 for FP8).
        shared_intermediate: inner width of a feed-forward part that computes every token besides its experts; 0 if
            there is none.
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


@dataclass(frozen=True, slots=True)
class GPU:
    """A GPU.

    Attributes:
        name: product name.
        peak_flops: peak dense BF16 operations per second.
        efficiency: share of the peak that prefill reaches; tuned kernels reach 0.5 on long prompts.
    """

    name: str
    peak_flops: float
    efficiency: float = 0.5


# From the config.json that is published with the weights on Hugging Face.
MIXTRAL_8X7B = ModelShape("Mixtral-8x7B", 32, 4096, 32, 8, 128, 14336, 8, 2, 32000)
MIXTRAL_8X22B = ModelShape("Mixtral-8x22B", 56, 6144, 48, 8, 128, 16384, 8, 2, 32768)
DBRX = ModelShape("DBRX", 40, 6144, 48, 8, 128, 10752, 16, 4, 100352)
QWEN3_CODER = ModelShape("Qwen3-Coder-480B-A35B", 62, 6144, 96, 8, 128, 2560, 160, 8, 151936)
GROK_2 = ModelShape("Grok-2", 64, 8192, 64, 8, 128, 16384, 8, 2, 131072, shared_intermediate=32768)
LLAMA3_8B = ModelShape("Llama3-8B", 32, 4096, 32, 8, 128, 14336, 1, 1, 128256)

# Dense tensor-core rates (half of the "with sparsity" figure) from NVIDIA's A100, H100 (SXM5) and HGX B200 data sheets.
A100 = GPU("A100", 312e12)
H100 = GPU("H100", 989e12)
B200 = GPU("B200", 2250e12)


def parameters(shape: ModelShape) -> int:
    """Return the number of weights: attention, experts, router, embedding and output head, without norms and biases."""
    attention = shape.hidden * shape.head_dim * 2 * (shape.heads + shape.kv_heads)
    router = shape.hidden * shape.experts if shape.experts > 1 else 0
    feed_forward = 3 * shape.hidden * (shape.experts * shape.intermediate + shape.shared_intermediate)
    return shape.layers * (attention + router + feed_forward) + 2 * shape.vocab * shape.hidden


def kv_bytes_per_token_layer(shape: ModelShape) -> int:
    """Return the bytes of KV cache per token and layer: a key and a value per KV head."""
    return 2 * shape.kv_heads * shape.head_dim * shape.bytes_per_element


def projection_flops_per_layer(shape: ModelShape, tokens: int) -> int:
    """Return the operations of the query, key, value and output projections of ``tokens`` tokens."""
    return 2 * tokens * shape.hidden * shape.head_dim * 2 * (shape.heads + shape.kv_heads)


def attention_flops_per_layer(shape: ModelShape, tokens: int, context: int) -> int:
    """Return the operations of causal attention for ``tokens`` new tokens after ``context`` tokens whose KV exists.

    The i-th new token attends to context + i keys, itself included: a score and a weighted value for each, two
    operations per element and head.
    """
    keys = tokens * context + tokens * (tokens + 1) // 2
    return 4 * shape.heads * shape.head_dim * keys


def expert_flops_per_layer(shape: ModelShape, tokens: int) -> int:
    """Return the operations of the routed experts, the shared part and the router for ``tokens`` tokens."""
    router = 2 * tokens * shape.hidden * shape.experts if shape.experts > 1 else 0
    width = shape.experts_per_token * shape.intermediate + shape.shared_intermediate
    return 2 * tokens * 3 * shape.hidden * width + router


def prefill_flops_per_layer(shape: ModelShape, tokens: int, context: int) -> int:
    """Return all operations of one layer for ``tokens`` new tokens of a prompt after ``context`` tokens of it."""
    return (
        projection_flops_per_layer(shape, tokens)
        + attention_flops_per_layer(shape, tokens, context)
        + expert_flops_per_layer(shape, tokens)
    )


def compute_ns(flops: int, gpu: GPU, gpus: int) -> int:
    """Return the nanoseconds, at least 1, that ``gpus`` evenly loaded GPUs take for ``flops`` operations."""
    return max(1, round(flops * NS_PER_S / (gpu.peak_flops * gpu.efficiency * gpus)))


def all_to_all_bytes_per_layer(shape: ModelShape, tokens: int) -> int:
    """Return the bytes that expert parallelism exchanges for ``tokens`` tokens in one layer, within servers included.

    Dispatch sends each token's activations to each of its experts, and combine sends the results back. Dense models,
    which are assumed to run tensor-parallel within a server, exchange nothing.
    """
    if shape.experts == 1:
        return 0
    return 2 * tokens * shape.experts_per_token * shape.hidden * shape.bytes_per_element


def all_to_all_bytes_per_server_pair(shape: ModelShape, tokens: int, servers: int) -> int:
    """Return the bytes per layer from one server to another, dispatch and combine together, spread evenly."""
    return all_to_all_bytes_per_layer(shape, tokens) // (servers * servers)


def sequence_gather_bytes_per_server_pair(shape: ModelShape, tokens: int, servers: int) -> int:
    """Return the bytes per layer from one server to another if a sequence of ``tokens`` is spread over ``servers``.

    In attention every rank needs the keys and values of all tokens and has those of its own part (ring attention, or
    an all-gather). A server receives them over the network once and distributes them over NVLink.
    """
    return tokens * kv_bytes_per_token_layer(shape) // servers
