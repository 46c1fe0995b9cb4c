"""Requests of the agent's clients, and their answers: one JSON object per line (``docs/reference/host-agent.md``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from host_agent.daemon.access import ROOT, Access
from host_agent.daemon.gate import Gate
from host_agent.daemon.holding import Holder
from host_agent.daemon.process_sockets import connections_of
from host_agent.daemon.registrations import RdmaFlow, Registrations
from host_agent.ebpf.flows import FlowReport, FlowTable, cgroup_id
from host_agent.ebpf.layout import FlowState
from host_agent.protocol.address import address
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
    """A connection of the process ``pid`` of a user, with the handles of the flows that end with it."""

    def __init__(self, pid: int, user: int = ROOT) -> None:
        self.pid = pid
        self.user = user
        self.flows: set[int] = set()
        self.wake: Callable[[], None] = lambda: None
        """Called when a message of the client is permitted."""


class Requests:
    """Requests of clients, answered from a :class:`FlowTable`."""

    def __init__(
        self,
        table: FlowTable,
        status: Callable[[], dict[str, Any]],
        registrations: Registrations,
        gate: Gate,
        holder: Holder | None = None,
    ) -> None:
        """Set what answers.

        Args:
            table: flows that the kernel stamps.
            status: returns the status of the agent itself.
            registrations: flows that the kernel does not see.
            gate: messages of engines that can wait.
            holder: what holds flows, if any.
        """
        self._table = table
        self._status = status
        self._registrations = registrations
        self._gate = gate
        self._holder = holder
        self.access = Access()
        self._owners: dict[int, Client] = {}
        self.unclaimed = {flow for flow in table.handles() if not table.request(flow).keep}
        """Flows of an earlier process whose clients have not come back."""
        self._operations: dict[str, tuple[Callable[[Client, Fields], dict[str, Any]], frozenset[str]]] = {
            "open": (self._open, OPEN_FIELDS | {"resume"}),
            "update": (self._update, UPDATE_FIELDS | {"flow"}),
            "advance": (self._advance, frozenset({"batch", "layer"})),
            "progress": (self._progress, frozenset({"batch"})),
            "close": (self._close, frozenset({"flow"})),
            "submit": (self._submit, frozenset({"flow", "bytes"})),
            "permit": (self._permit, frozenset({"wait_us"})),
            "complete": (self._complete, frozenset({"message"})),
            "status": (self._all, frozenset()),
            "connections": (self._connections, frozenset({"pid", "destination", "destination_port"})),
            "batch": (self._batch, frozenset({"requests"})),
        }

    def answer(self, client: Client, request: object) -> dict[str, Any]:
        """Return the answer to one request: ``{"ok": true, ...}`` or ``{"ok": false, "error": ...}``."""
        try:
            return {"ok": True, **self._perform(client, request)}
        except AgentError as error:
            return {"ok": False, "error": str(error)}

    def gone(self, client: Client) -> None:
        """Close the flows of a connection that ended, except those opened with ``keep``."""
        self._gate.forget_owner(client)
        for flow in list(client.flows):
            self._end(flow)
            self._forget(flow)
        self._turn()

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
        self.access.check_open(client.user, request)
        if request.match.rdma is not None:
            flow = self._registrations.open(request, resume=fields.get("resume") is True)
            self._own(client, flow, request.keep)
            return {"flow": flow, "number": self._registrations.flow(flow).request.number}
        if isinstance(request.match.cgroup, str):
            request = replace(request, match=Match(cgroup=cgroup_id(request.match.cgroup)))
        replaced = self._table.flow_of(request.match)
        if replaced is not None:
            self.access.check_change(replaced, client.user)
        flow = self._table.open(request, resume=fields.get("resume") is True)
        if replaced is not None:
            if replaced != flow:
                self._gate.forget_flow(replaced)
            self._forget(replaced)
        if self._holder is not None:
            self._holder.opened(flow)
        self._own(client, flow, request.keep)
        return {"flow": flow, "number": self._table.request(flow).number}

    def _update(self, client: Client, fields: Fields) -> dict[str, Any]:
        flow = self._owned(client, fields)
        values = {name: value for name, value in fields.items() if name != "flow"}
        update = FlowUpdate.from_json(values, time.monotonic_ns())
        if flow in self._registrations:
            self._registrations.update(flow, update)
        else:
            self._table.update(flow, update)
        return {}

    def _advance(self, _client: Client, fields: Fields) -> dict[str, Any]:
        batch, layer = check_progress(fields.get("batch"), fields.get("layer"))
        self._table.advance(batch, layer)
        self._registrations.advanced(batch)
        if self._holder is not None:
            self._holder.advanced(batch)
        return {}

    def _progress(self, _client: Client, fields: Fields) -> dict[str, Any]:
        return {"layer": self._table.current_layer(check_integer("batch", fields.get("batch")))}

    def _close(self, client: Client, fields: Fields) -> dict[str, Any]:
        flow = self._owned(client, fields)
        self._end(flow)
        self._forget(flow)
        self._turn()
        return {}

    def _submit(self, client: Client, fields: Fields) -> dict[str, Any]:
        flow = self._owned(client, fields)
        size = check_integer("bytes", fields.get("bytes"))
        if flow not in self._registrations:
            self._table.request(flow)
        message = self._gate.submit(flow, size, client)
        self._turn()
        return {"message": message}

    def _permit(self, client: Client, fields: Fields) -> dict[str, Any]:
        # Who asked waits, if at all.
        check_integer("wait_us", fields.get("wait_us", 0))
        return {"permitted": self._gate.permitted(client)}

    def _complete(self, client: Client, fields: Fields) -> dict[str, Any]:
        message = self._gate.complete(check_integer("message", fields.get("message")), client)
        if message.flow in self._registrations:
            self._registrations.completed(message.flow, message.size)
        self._turn()
        return {}

    def _connections(self, client: Client, fields: Fields) -> dict[str, Any]:
        pid = client.pid if fields.get("pid") is None else check_integer("pid", fields["pid"])
        if pid != client.pid:
            self.access.check_process(pid, client.user)
        port = fields.get("destination_port")
        destination = str(address("destination", fields.get("destination")))
        found = connections_of(pid, destination, None if port is None else check_integer("destination_port", port))
        return {"connections": [{"cookie": cookie, "connection": each.to_json()} for cookie, each in found]}

    def _batch(self, client: Client, fields: Fields) -> dict[str, Any]:
        requests = fields.get("requests")
        if not isinstance(requests, list):
            raise RequestError(f"requests is a list of requests, not {requests!r}")
        if any(isinstance(request, dict) and request.get("op") == "batch" for request in requests):
            raise RequestError("a batch does not take a batch")
        return {"answers": [self.answer(client, request) for request in requests]}

    def _turn(self) -> None:
        """Permit what may go now."""
        for message in self._gate.turn():
            if message.flow in self._registrations:
                self._registrations.submitted(message.flow, message.size)
            if isinstance(message.owner, Client):
                message.owner.wake()

    def _end(self, flow: int) -> None:
        """Close a flow of either kind, and drop its messages."""
        if flow in self._registrations:
            self._registrations.close(flow)
        else:
            self._table.close(flow)
        self._gate.forget_flow(flow)

    def _own(self, client: Client, flow: int, keep: bool) -> None:
        self.access.opened(flow, client.user)
        if not keep:
            self._owners[flow] = client
            client.flows.add(flow)

    def _all(self, _client: Client, _fields: Fields) -> dict[str, Any]:
        rdma = [self._rdma_flow(flow) for flow in self._registrations.handles()]
        return {**self._status(), "flows": [self._flow(report) for report in self._table.report()] + rdma}

    def _rdma_flow(self, flow: int) -> dict[str, Any]:
        held: RdmaFlow = self._registrations.flow(flow)
        layer = self._table.current_layer(held.request.batch)
        # What its packets and their level are, only the switch knows.
        state = FlowState(sent_bytes=held.done_bytes, packets=0, level=None)
        return self._flow(FlowReport(flow, held.request, state, layer))

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
            "unstamped": state.unstamped,
            "level": state.level,
            "owner": owner,
        }

    def _owned(self, client: Client, fields: Fields) -> int:
        flow = fields.get("flow")
        if type(flow) is not int:
            raise RequestError(f"flow is the number that open returned, not {flow!r}")
        if self._owners.get(flow, client) is not client:
            raise RequestError(f"flow {flow} belongs to another client")
        self.access.check_change(flow, client.user)
        return flow

    def _forget(self, flow: int) -> None:
        self.access.closed(flow)
        self.unclaimed.discard(flow)
        owner = self._owners.pop(flow, None)
        if owner is not None:
            owner.flows.discard(flow)
