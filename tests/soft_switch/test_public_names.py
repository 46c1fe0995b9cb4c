"""Covers the public names of ``soft_switch``, and the cost of importing it."""

from __future__ import annotations

import pytest

import soft_switch
from tests.support.imports import modules_loaded_by


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    for name in soft_switch.__all__:
        value = getattr(soft_switch, name)
        assert name == "Backend" or value.__doc__, name
    assert set(dir(soft_switch)) == set(soft_switch.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Test_bench'"):
        _ = soft_switch.Test_bench


@pytest.mark.parametrize("statement", ["import soft_switch", "from soft_switch import *"])
def test_grpc_is_not_imported(statement: str) -> None:
    assert {name for name in modules_loaded_by(statement) if name.startswith(("grpc", "google"))} == set()
