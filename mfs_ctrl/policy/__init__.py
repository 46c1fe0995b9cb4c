"""Policies as data, and what acts on them: the tuner, the coordinator.

Importing this package needs the standard library only; :func:`load` needs pydantic (the extra ``ctrl``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfs_ctrl.policy.policy import Policy

__all__ = ["SUFFIX", "builtin_names", "load"]

BUILTIN = Path(__file__).parent / "builtin"
SUFFIX = ".toml"
"""Of a policy file."""


def builtin_names() -> tuple[str, ...]:
    """Return the names of the built-in policies, in alphabetical order."""
    return tuple(sorted(path.stem for path in BUILTIN.glob(f"*{SUFFIX}")))


def load(name_or_path: str | Path) -> Policy:
    """Return the built-in policy of that name, or the one that a TOML file describes.

    Raises:
        PolicyError: there is no such policy, or the file is wrong; the message names file, key and what is allowed.
    """
    from mfs_ctrl.policy import policy_file

    return policy_file.load(name_or_path)
