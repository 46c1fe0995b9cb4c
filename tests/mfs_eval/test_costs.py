"""Sizes and times of prefill (mfs_eval.serving.costs), compared with published totals and values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfs_eval.serving import costs


@pytest.mark.parametrize(
    ("shape", "billions"),
    [
        (costs.MIXTRAL_8X7B, 46.7),
        (costs.MIXTRAL_8X22B, 140.6),
        (costs.DBRX, 132),
        (costs.GROK_2, 269.5),
        (costs.QWEN3_CODER, 480),
        (costs.LLAMA3_8B, 8.03),
    ],
)
def test_shapes_add_up_to_the_published_number_of_parameters(shape: costs.ModelShape, billions: float) -> None:
    assert costs.parameters(shape) / 1e9 == pytest.approx(billions, rel=0.01)


def test_kv_has_a_key_and_a_value_per_kv_head() -> None:
    # 8 KV heads x 128 x (key and value) x 2 bytes
    assert costs.kv_bytes_per_token_layer(costs.MIXTRAL_8X7B) == 4096
    assert costs.kv_bytes_per_token_layer(replace(costs.MIXTRAL_8X7B, bytes_per_element=1)) == 2048
    assert costs.kv_bytes_per_token_layer(costs.LLAMA3_8B) * costs.LLAMA3_8B.layers == 128 * 1024


def test_a_token_costs_two_operations_per_weight_and_its_attention() -> None:
    """Two operations per weight that is applied to the token, and its attention to itself."""
    shape = costs.MIXTRAL_8X7B
    projections = 4096 * 4096 + 2 * 4096 * 1024 + 4096 * 4096
    assert costs.projection_flops_per_layer(shape, 1) == 2 * projections
    assert costs.expert_flops_per_layer(shape, 1) == 2 * (2 * 3 * 4096 * 14336 + 4096 * 8)
    assert costs.attention_flops_per_layer(shape, 1, 0) == 4 * 4096
    assert costs.prefill_flops_per_layer(shape, 1, 0) == 2 * projections + 2 * (2 * 3 * 4096 * 14336 + 4096 * 8) + 16384


def test_a_dense_model_has_no_router_and_no_all_to_all() -> None:
    assert costs.expert_flops_per_layer(costs.LLAMA3_8B, 10) == 10 * 2 * 3 * 4096 * 14336
    assert costs.all_to_all_bytes_per_layer(costs.LLAMA3_8B, 8192) == 0


def test_attention_is_causal_and_includes_the_context() -> None:
    # Tokens 101, 102, 103 of a prompt attend to 101 + 102 + 103 = 306 keys.
    assert costs.attention_flops_per_layer(costs.MIXTRAL_8X7B, 3, 100) == 4 * 4096 * 306


@given(st.integers(1, 50_000), st.integers(1, 50_000), st.integers(0, 50_000))
def test_chunks_cost_as_much_as_the_whole_prompt(first: int, second: int, context: int) -> None:
    for shape in (costs.MIXTRAL_8X7B, costs.MIXTRAL_8X22B, costs.DBRX, costs.QWEN3_CODER, costs.LLAMA3_8B):
        whole = costs.prefill_flops_per_layer(shape, first + second, context)
        parts = costs.prefill_flops_per_layer(shape, first, context)
        parts += costs.prefill_flops_per_layer(shape, second, context + first)
        assert whole == parts


def test_compute_time_is_operations_over_the_effective_rate() -> None:
    # 8 H100 at half of 989 TFLOP/s do 3.956e15 operations in a second.
    assert costs.compute_ns(3_956_000_000_000_000, costs.H100, 8) == 1_000_000_000
    assert costs.compute_ns(3_956_000_000_000_000, replace(costs.H100, efficiency=1.0), 8) == 500_000_000
    assert costs.compute_ns(1, costs.H100, 8) == 1


def test_the_all_to_all_moves_activations_to_the_experts_and_back() -> None:
    # 8192 tokens x 2 experts x 4096 x 2 bytes, there and back.
    assert costs.all_to_all_bytes_per_layer(costs.MIXTRAL_8X7B, 8192) == 2 * 8192 * 2 * 4096 * 2
    assert costs.all_to_all_bytes_per_server_pair(costs.MIXTRAL_8X7B, 8192, 2) == 8192 * 2 * 4096 * 2 // 2


@pytest.mark.parametrize("servers", [1, 2, 4, 8])
def test_pairs_of_servers_add_up_to_the_bytes_that_cross(servers: int) -> None:
    total = costs.all_to_all_bytes_per_layer(costs.QWEN3_CODER, 8192)
    pairs = servers * (servers - 1) * costs.all_to_all_bytes_per_server_pair(costs.QWEN3_CODER, 8192, servers)
    assert pairs == total * (servers - 1) / servers


def test_a_sequence_over_servers_gathers_the_keys_and_values_of_the_others() -> None:
    per_token = costs.kv_bytes_per_token_layer(costs.LLAMA3_8B)
    assert costs.sequence_gather_bytes_per_server_pair(costs.LLAMA3_8B, 8192, 2) == 4096 * per_token
    # A server receives exactly what it does not have.
    assert 3 * costs.sequence_gather_bytes_per_server_pair(costs.LLAMA3_8B, 8192, 4) == 3 / 4 * 8192 * per_token
