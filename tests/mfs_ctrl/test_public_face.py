"""The public names of ``mfs_ctrl``, and the cost of importing it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import mfs_ctrl
from tests.test_packaging import beyond, forbidden, loaded_by


def test_the_public_names_are_those_of_their_modules() -> None:
    assert set(mfs_ctrl.__all__) == {"Controller", "Policy", "Thresholds", "policies"}
    assert mfs_ctrl.Controller is importlib.import_module("mfs_ctrl.controller").Controller
    assert mfs_ctrl.Policy is importlib.import_module("mfs_ctrl.policy.policy").Policy
    assert mfs_ctrl.policies is importlib.import_module("mfs_ctrl.policies")
    assert set(mfs_ctrl.__all__) <= set(dir(mfs_ctrl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mfs_ctrl.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["mfs_ctrl", "mfs_ctrl.policy"])
def test_importing_the_package_needs_only_the_standard_library(module: str) -> None:
    modules = loaded_by(module)
    assert forbidden(modules) == set()
    assert beyond({"mfs_ctrl"}, modules) == set()


def test_the_help_of_the_controller_needs_only_click() -> None:
    modules = loaded_by("mfs_ctrl.commands")
    assert forbidden(modules) == set()
    assert beyond({"mfs_ctrl", "host_agent", "click"}, modules) == set()


def test_every_public_name_of_policies_is_documented() -> None:
    for name in mfs_ctrl.policies.__all__:
        assert getattr(mfs_ctrl.policies, name).__doc__


def test_policies_is_an_attribute_of_a_package_that_was_just_imported() -> None:
    code = "import mfs_ctrl; print(mfs_ctrl.policies.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "mfs_ctrl.policies\n"
