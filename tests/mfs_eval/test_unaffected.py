"""Requests that a server takes no part in: it neither computes them, nor holds their KV, nor decodes them."""

from __future__ import annotations

import pytest

from mfs_eval.packet_level.unaffected import unaffected
from mfs_eval.serving.cluster import colocated
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.placement import Placement
from mfs_eval.serving.prefix_cache import Reuse


def record(index: int, unit: int, decode_server: int) -> RequestRecord:
    return RequestRecord(index, unit, decode_server, *[0] * 12)


@pytest.mark.parametrize(
    ("unit", "decode_server", "holder", "counts"),
    [(0, 2, None, True), (3, 2, None, False), (0, 7, None, False), (0, 2, 3, False), (0, 6, 1, True)],
)
def test_a_request_is_unaffected_by_server_7_if_the_server_takes_no_part_in_it(
    unit: int, decode_server: int, holder: int | None, counts: bool
) -> None:
    one = record(5, unit, decode_server)
    placed = {5: Placement(unit, Reuse(0, 0, holder))}
    assert unaffected([one], placed, colocated(), 7) == ([one] if counts else [])
