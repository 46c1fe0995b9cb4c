"""Covers the public names of ``soft_switch``, and the cost of importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import soft_switch


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
    code = f"{statement}; import sys; print([name for name in sys.modules if name.startswith(('grpc', 'google'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
