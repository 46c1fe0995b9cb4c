"""Base classes of the errors that a user can act on."""

from __future__ import annotations


class MfsError(Exception):
    """Base of all expected errors. The message names the thing, what is wrong and the way out.

    The command line prints the message alone. The embedded switch does not depend on this project's other packages and
    has its own base: :class:`soft_switch.errors.SwitchError`.
    """


class AgentError(MfsError):
    """Base of all errors of the host agent, raised in its own process or by its clients."""


class RequestError(AgentError):
    """A request that the agent cannot serve: a field is missing, has the wrong type or is out of range."""
