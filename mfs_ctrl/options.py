"""Types of option values for commands that take a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mfs_ctrl import policy
from mfs_ctrl.errors import PolicyError

if TYPE_CHECKING:
    from mfs_ctrl.policy.policy import Policy


class PolicyOrFile(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """The name of a built-in policy, or a TOML file with a policy."""

    name = "name|file.toml"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Policy:
        """See :meth:`click.ParamType.convert`."""
        if not isinstance(value, str):
            chosen: Policy = value
            return chosen
        try:
            return policy.load(value)
        except PolicyError as error:
            self.fail(str(error), param, ctx)


def policy_help() -> str:
    """Return the help text of ``--policy``."""
    return f"Built-in ({', '.join(policy.builtin_names())}), or a TOML file."
