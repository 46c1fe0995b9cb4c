"""Requests of the agent's clients, and their answers: one JSON object per line (``docs/reference/host-agent.md``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from host_agent.daemon.holding import Holder
from host_agent.ebpf.flows import FlowReport, FlowTable, cgroup_id
from host_agent.protocol.errors import AgentError, RequestError
from host_agent.protocol.flow_request import (
    OPEN_FIELDS,
    UPDATE_FIELDS,
    FlowRequest,
    FlowUpdate,
    Match,
    check_integer,
    check_progress,
)

Fields = Mapping[str, Any]


class Client:
    """A connection, with the handles of the flows that end with it."""

    def __init__(self) -> None:
        self.flows: set[int] = set()


class Requests:
    """Requests of clients, answered from a :class:`FlowTable`."""

    def __init__(self, table: FlowTable, status: Callable[[], dict[str, Any]], holder: Holder | None = None) -> None:
        """Set the flows, ``status``, which returns the status of the agent itself, and what holds flows, if any."""
        self._table = table
        self._status = status
        self._holder = holder
        self._owners: dict[int, Client] = {}
        self.unclaimed = {flow for flow in table.handles() if not table.request(flow).keep}
        """Flows of an earlier process whose clients have not come back."""
        self._operations: dict[str, tuple[Callable[[Client, Fields], dict[str, Any]], frozenset[str]]] = {
            "open": (self._open, OPEN_FIELDS | {"resume"}),
            "update": (self._update, UPDATE_FIELDS | {"flow"}),
            "advance": (self._advance, frozenset({"batch", "layer"})),
            "progress": (self._progress, frozenset({"batch"})),
            "close": (self._close, frozenset({"flow"})),
            "status": (self._all, frozenset()),
        }

    def answer(self, client: Client, request: object) -> dict[str, Any]:
        """Return the answer to one request: ``{"ok": true, ...}`` or ``{"ok": false, "error": ...}``."""
        try:
            return {"ok": True, **self._perform(client, request)}
        except AgentError as error:
            return {"ok": False, "error": str(error)}

    def gone(self, client: Client) -> None:
        """Close the flows of a connection that ended, except those opened with ``keep``."""
        for flow in client.flows:
            self._owners.pop(flow, None)
            self._table.close(flow)
        client.flows.clear()

    def close_unclaimed(self) -> int:
        """Close the flows whose clients did not come back, and return their number."""
        for flow in self.unclaimed:
            self._table.close(flow)
        count = len(self.unclaimed)
        self.unclaimed.clear()
        return count

    def _perform(self, client: Client, request: object) -> dict[str, Any]:
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            raise RequestError('a request is a JSON object with "op" and the fields of that operation')
        fields = dict(request)
        name = fields.pop("op")
        if name not in self._operations:
            raise RequestError(f"unknown operation {name!r}; use one of {', '.join(self._operations)}")
        operation, allowed = self._operations[name]
        if unknown := fields.keys() - allowed:
            raise RequestError(
                f"{name} does not take {', '.join(sorted(unknown))}; it takes {', '.join(sorted(allowed))}"
            )
        return operation(client, fields)

    def _open(self, client: Client, fields: Fields) -> dict[str, Any]:
        values = {name: value for name, value in fields.items() if name != "resume"}
        request = FlowRequest.from_json(values, time.monotonic_ns())
        if isinstance(request.match.cgroup, str):
            request = replace(request, match=Match(cgroup=cgroup_id(request.match.cgroup)))
        before = set(self._table.handles())
        flow = self._table.open(request, resume=fields.get("resume") is True)
        for ended in before - set(self._table.handles()) | {flow}:
            self._forget(ended)
        if self._holder is not None:
            self._holder.opened(flow)
        if not request.keep:
            self._owners[flow] = client
            client.flows.add(flow)
        return {"flow": flow, "number": self._table.request(flow).number}

    def _update(self, client: Client, fields: Fields) -> dict[str, Any]:
        flow = self._owned(client, fields)
        values = {name: value for name, value in fields.items() if name != "flow"}
        self._table.update(flow, FlowUpdate.from_json(values, time.monotonic_ns()))
        return {}

    def _advance(self, _client: Client, fields: Fields) -> dict[str, Any]:
        batch, layer = check_progress(fields.get("batch"), fields.get("layer"))
        self._table.advance(batch, layer)
        if self._holder is not None:
            self._holder.advanced(batch)
        return {}

    def _progress(self, _client: Client, fields: Fields) -> dict[str, Any]:
        return {"layer": self._table.current_layer(check_integer("batch", fields.get("batch")))}

    def _close(self, client: Client, fields: Fields) -> dict[str, Any]:
        flow = self._owned(client, fields)
        self._table.close(flow)
        self._forget(flow)
        return {}

    def _all(self, _client: Client, _fields: Fields) -> dict[str, Any]:
        return {**self._status(), "flows": [self._flow(report) for report in self._table.report()]}

    def _flow(self, report: FlowReport) -> dict[str, Any]:
        request, state = report.request, report.state
        owner = "kept" if request.keep else "unclaimed" if report.flow in self.unclaimed else "client"
        return {
            "flow": report.flow,
            "match": str(request.match),
            "batch": request.batch,
            "number": request.number,
            "stage": request.stage.name,
            "slack_us": (request.deadline_ns - time.monotonic_ns()) // 1000,
            "target_layer": request.target_layer,
            "current_layer": report.current_layer,
            "total_bytes": request.total_bytes,
            "beyond_bytes": request.beyond_bytes,
            "message_bytes": request.message_bytes,
            "pruned": request.pruned,
            "keep": request.keep,
            "sent_bytes": state.sent_bytes,
            "packets": state.packets,
            "level": state.level,
            "owner": owner,
        }

    def _owned(self, client: Client, fields: Fields) -> int:
        flow = fields.get("flow")
        if type(flow) is not int:
            raise RequestError(f"flow is the number that open returned, not {flow!r}")
        if self._owners.get(flow, client) is not client:
            raise RequestError(f"flow {flow} belongs to another client")
        return flow

    def _forget(self, flow: int) -> None:
        self.unclaimed.discard(flow)
        owner = self._owners.pop(flow, None)
        if owner is not None:
            owner.flows.discard(flow)
