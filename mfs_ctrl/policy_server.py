"""The policy in force as JSON over HTTP, for host agents: ``GET /policy``, with an entity tag.

``PolicyServer.publish`` is an ``on_policy`` callback of the controller. Nothing served is secret, and clients can
change nothing. Agents say in a header who they are (:mod:`host_agent.protocol.agent_header`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.message import Message
from http import HTTPStatus

from host_agent.http_endpoint import HttpEndpoint, Reply, ServerTls
from host_agent.protocol.agent_header import HEADER
from host_agent.protocol.policy_document import PolicyDocument, etag
from mfs_ctrl.agents import Agents
from mfs_ctrl.policy.policy import Policy

PATH = "/policy"


class PolicyServer(HttpEndpoint):
    """HTTP server of the last published policy; answers 503 before the first."""

    def __init__(self, address: str, tls: ServerTls | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Listen at ``address``; see :class:`~host_agent.http_endpoint.HttpEndpoint`.

        Raises:
            EndpointError: there is no such address, or it is in use.
        """
        self.agents = Agents(clock)
        self._document: tuple[str, str] | None = None
        super().__init__(address, {PATH: self._policy}, tls)

    def publish(self, policy: Policy, biases: Mapping[int, int]) -> None:
        """Serve ``policy`` and the bias code of each port until the next call."""
        text = PolicyDocument(policy.name, policy.rules, dict(biases)).to_json()
        self._document = (text, etag(text))

    def _policy(self, headers: Message) -> Reply:
        self.agents.heard(headers.get(HEADER, ""))
        if self._document is None:
            return Reply("no policy is in force yet\n", HTTPStatus.SERVICE_UNAVAILABLE)
        text, tag = self._document
        if headers.get("If-None-Match") == tag:
            return Reply(status=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
        return Reply(text, content_type="application/json", headers={"ETag": tag})
