"""Sizes and times of prefill (evaluation.llm), against published totals and values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import llm
from evaluation.errors import ModelError


@pytest.mark.parametrize(
    ("shape", "billions"),
    [
        (llm.MIXTRAL_8X7B, 46.7),
        (llm.MIXTRAL_8X22B, 140.6),
        (llm.DBRX, 132),
        (llm.GROK_2, 269.5),
        (llm.QWEN3_CODER, 480),
        (llm.LLAMA3_8B, 8.03),
    ],
)
def test_shapes_add_up_to_the_published_number_of_parameters(shape: llm.ModelShape, billions: float) -> None:
    assert llm.parameters(shape) / 1e9 == pytest.approx(billions, rel=0.01)


def test_kv_bytes() -> None:
    # 8 KV heads x 128 x (key and value) x 2 bytes
    assert llm.kv_bytes_per_token_layer(llm.MIXTRAL_8X7B) == 4096
    assert llm.kv_bytes_per_token_layer(llm.MIXTRAL_8X7B.with_bytes_per_element(1)) == 2048
    assert llm.kv_bytes_per_token_layer(llm.LLAMA3_8B) * llm.LLAMA3_8B.layers == 128 * 1024


def test_flops_of_one_token() -> None:
    """Two operations per weight that the token meets, and its attention to itself."""
    shape = llm.MIXTRAL_8X7B
    projections = 4096 * 4096 + 2 * 4096 * 1024 + 4096 * 4096
    assert llm.projection_flops_per_layer(shape, 1) == 2 * projections
    assert llm.expert_flops_per_layer(shape, 1) == 2 * (2 * 3 * 4096 * 14336 + 4096 * 8)
    assert llm.attention_flops_per_layer(shape, 1, 0) == 4 * 4096
    assert llm.prefill_flops_per_layer(shape, 1, 0) == 2 * projections + 2 * (2 * 3 * 4096 * 14336 + 4096 * 8) + 16384


def test_a_dense_model_has_no_router_and_no_all_to_all() -> None:
    assert llm.expert_flops_per_layer(llm.LLAMA3_8B, 10) == 10 * 2 * 3 * 4096 * 14336
    assert llm.all_to_all_bytes_per_layer(llm.LLAMA3_8B, 8192) == 0


def test_attention_is_causal_and_sees_the_context() -> None:
    # Tokens 101, 102, 103 of a prompt attend to 101 + 102 + 103 = 306 keys.
    assert llm.attention_flops_per_layer(llm.MIXTRAL_8X7B, 3, 100) == 4 * 4096 * 306


@given(st.integers(1, 50_000), st.integers(1, 50_000), st.integers(0, 50_000))
def test_chunks_cost_what_the_whole_costs(first: int, second: int, context: int) -> None:
    for shape in (llm.MIXTRAL_8X7B, llm.MIXTRAL_8X22B, llm.DBRX, llm.QWEN3_CODER, llm.LLAMA3_8B):
        whole = llm.prefill_flops_per_layer(shape, first + second, context)
        parts = llm.prefill_flops_per_layer(shape, first, context)
        parts += llm.prefill_flops_per_layer(shape, second, context + first)
        assert whole == parts


def test_compute_time() -> None:
    # 8 H100 at half of 989 TFLOP/s do 3.956e15 operations in a second.
    assert llm.compute_ns(3_956_000_000_000_000, llm.H100, 8) == 1_000_000_000
    assert llm.compute_ns(3_956_000_000_000_000, llm.H100.with_efficiency(1.0), 8) == 500_000_000
    assert llm.compute_ns(1, llm.H100, 8) == 1


def test_all_to_all_bytes() -> None:
    # 8192 tokens x 2 experts x 4096 x 2 bytes, there and back.
    assert llm.all_to_all_bytes_per_layer(llm.MIXTRAL_8X7B, 8192) == 2 * 8192 * 2 * 4096 * 2
    assert llm.cross_server_fraction(1) == 0
    assert llm.cross_server_fraction(2) == 0.5
    assert llm.all_to_all_bytes_per_server_pair(llm.MIXTRAL_8X7B, 8192, 2) == 8192 * 2 * 4096 * 2 // 2


@pytest.mark.parametrize("servers", [1, 2, 4, 8])
def test_pairs_of_servers_add_up_to_what_crosses(servers: int) -> None:
    total = llm.all_to_all_bytes_per_layer(llm.QWEN3_CODER, 8192)
    pairs = servers * (servers - 1) * llm.all_to_all_bytes_per_server_pair(llm.QWEN3_CODER, 8192, servers)
    assert pairs == total * llm.cross_server_fraction(servers)


def test_an_efficiency_is_a_share() -> None:
    with pytest.raises(ModelError, match="efficiency"):
        llm.H100.with_efficiency(0)


def test_a_sequence_over_servers_gathers_the_keys_and_values_of_the_others() -> None:
    per_token = llm.kv_bytes_per_token_layer(llm.LLAMA3_8B)
    assert llm.sequence_gather_bytes_per_server_pair(llm.LLAMA3_8B, 8192, 2) == 4096 * per_token
    # All that a server takes in is what it has not itself.
    assert 3 * llm.sequence_gather_bytes_per_server_pair(llm.LLAMA3_8B, 8192, 4) == 3 / 4 * 8192 * per_token
