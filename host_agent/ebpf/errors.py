"""Errors of the agent's process; each message says what is wrong and the way out."""

from __future__ import annotations

from host_agent.protocol.errors import AgentError


class KernelError(AgentError):
    """The kernel lacks a feature, denies permission or refuses an operation."""


class ObjectError(AgentError):
    """The compiled programs are missing, broken or older than their source, or cannot be compiled."""


class InterfaceError(AgentError):
    """The interface does not exist, or is in a state that the agent must not change."""


class PolicyError(AgentError):
    """No policy is available, or the policy does not fit the kernel's maps."""


class SocketError(AgentError):
    """The agent's socket cannot be served."""
