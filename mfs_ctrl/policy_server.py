"""The policy in force as JSON over HTTP, for host agents: ``GET /policy``, with an entity tag.

``PolicyServer.publish`` is an ``on_policy`` callback of a controller. Each switch tunes its thresholds, so an agent
gets the policy of the switch that it is connected to: agents say in a header who they are
(:mod:`host_agent.protocol.agent_header`). Nothing served is secret, and clients can change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.message import Message
from http import HTTPStatus

from host_agent.http_endpoint import HttpEndpoint, Reply, ServerTls
from host_agent.protocol.agent_header import HEADER, AgentIdentity
from host_agent.protocol.policy_document import PolicyDocument, etag
from mfs_ctrl.agents import Agents
from mfs_ctrl.policy.policy import Policy

PATH = "/policy"


class PolicyServer(HttpEndpoint):
    """HTTP server of the policies last published; answers 503 before the first.

    Attributes:
        agents: the agents that ask.
        switch_of: returns the name of an agent's switch, given its MAC address (``02:00:...``), or "". An agent of no
            known switch gets the policy of the first one that has published.
    """

    def __init__(self, address: str, tls: ServerTls | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Listen at ``address``; see :class:`~host_agent.http_endpoint.HttpEndpoint`.

        Raises:
            EndpointError: there is no such address, or it is in use.
        """
        self.agents = Agents(clock)
        self.switch_of: Callable[[str], str] = lambda _mac: ""
        self._documents: dict[str, tuple[str, str]] = {}
        super().__init__(address, {PATH: self._policy}, tls)

    def publish(self, policy: Policy, biases: Mapping[int, int], switch: str = "") -> None:
        """Serve ``policy`` and the bias code of each port to the agents of ``switch`` until its next call."""
        text = PolicyDocument(policy.name, policy.rules, dict(biases)).to_json()
        self._documents[switch] = (text, etag(text))

    def _policy(self, headers: Message) -> Reply:
        header = headers.get(HEADER, "")
        self.agents.heard(header)
        documents = dict(self._documents)
        if not documents:
            return Reply("no policy is in force yet\n", HTTPStatus.SERVICE_UNAVAILABLE)
        identity = AgentIdentity.from_header(header)
        switch = "" if identity is None else self.switch_of(identity.mac.lower())
        text, tag = documents.get(switch) or next(iter(documents.values()))
        if headers.get("If-None-Match") == tag:
            return Reply(status=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
        return Reply(text, content_type="application/json", headers={"ETag": tag})
