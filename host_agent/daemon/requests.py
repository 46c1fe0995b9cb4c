"""What clients of the agent's socket ask, and the answers: JSON objects, one a line
(``docs/reference/host-agent.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from host_agent.ebpf.errors import HostError, RequestError
from host_agent.ebpf.flows import FlowReport, FlowTable, HostFlow, Match, cgroup_id, monotonic_after
from host_agent.ebpf.layout import Tuple
from host_agent.protocol.stamp import SLACK_MAX_US, SLACK_MIN_US, Stage

Fields = Mapping[str, Any]

_ADDRESSES = ("protocol", "source", "source_port", "destination", "destination_port")
_DEADLINE = ("deadline_ns", "slack_us")
_NUMBERS = ("total_bytes", "target_layer", "beyond_bytes", "message_bytes", "number")


class Client:
    """One connection, and the flows that end with it."""

    def __init__(self) -> None:
        self.flows: set[int] = set()


class Requests:
    """Answers requests out of a :class:`FlowTable`."""

    def __init__(self, table: FlowTable, status: Callable[[], dict[str, Any]]) -> None:
        """``status`` gives what is to be said of the agent itself."""
        self._table = table
        self._status = status
        self._owners: dict[int, Client] = {}
        self.unclaimed = {slot for slot in table.slots() if not table.spec(slot).kept}
        """Flows that were there already, whose clients have not come back."""
        self._operations: dict[str, tuple[Callable[..., dict[str, Any]], set[str]]] = {
            "open": (
                self._open,
                {"match", "batch", "stage", "pruned", "keep", "resume", *_DEADLINE, *_NUMBERS},
            ),
            "update": (self._update, {"flow", "beyond_bytes", "pruned", *_DEADLINE}),
            "advance": (self._advance, {"batch", "layer"}),
            "progress": (self._progress, {"batch"}),
            "close": (self._close, {"flow"}),
            "status": (self._all, set()),
        }

    def answer(self, client: Client, request: object) -> dict[str, Any]:
        """The answer to one request: ``{"ok": true, ...}`` or ``{"ok": false, "error": ...}``."""
        try:
            return {"ok": True, **self._perform(client, request)}
        except HostError as error:
            return {"ok": False, "error": str(error)}

    def gone(self, client: Client) -> None:
        """The connection ended, and with it the flows that were not opened with ``keep``."""
        for slot in client.flows:
            self._owners.pop(slot, None)
            self._table.close(slot)
        client.flows.clear()

    def close_unclaimed(self) -> int:
        """End the flows whose clients did not come back; how many these were."""
        for slot in self.unclaimed:
            self._table.close(slot)
        count = len(self.unclaimed)
        self.unclaimed.clear()
        return count

    def _perform(self, client: Client, request: object) -> dict[str, Any]:
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            raise RequestError('a request is a JSON object with "op" and the fields of that operation')
        fields = dict(request)
        name = fields.pop("op")
        if name not in self._operations:
            raise RequestError(f"no such operation: {name!r}; there are {', '.join(self._operations)}")
        operation, allowed = self._operations[name]
        if unknown := fields.keys() - allowed:
            raise RequestError(f"{name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(allowed))}")
        return operation(client, fields)

    def _open(self, client: Client, fields: Fields) -> dict[str, Any]:
        deadline_ns = _deadline(fields)
        if deadline_ns is None:
            raise RequestError("a flow needs its deadline: slack_us from now, or deadline_ns on CLOCK_MONOTONIC")
        spec = HostFlow(
            match_of(fields.get("match")),
            _needed(fields, "batch"),
            _stage(fields.get("stage")),
            deadline_ns,
            pruned=fields.get("pruned", False),
            kept=fields.get("keep", False),
            **{"total_bytes": None, **{name: fields[name] for name in _NUMBERS if name in fields}},
        )
        before = set(self._table.slots())
        slot = self._table.open(spec, resume=fields.get("resume") is True)
        for ended in before - set(self._table.slots()) | {slot}:
            self._forget(ended)
        if not spec.kept:
            self._owners[slot] = client
            client.flows.add(slot)
        return {"flow": slot, "number": self._table.spec(slot).number}

    def _update(self, client: Client, fields: Fields) -> dict[str, Any]:
        slot = self._owned(client, fields)
        self._table.change(slot, _deadline(fields), fields.get("beyond_bytes"), fields.get("pruned"))
        return {}

    def _advance(self, _client: Client, fields: Fields) -> dict[str, Any]:
        self._table.advance(_needed(fields, "batch"), _needed(fields, "layer"))
        return {}

    def _progress(self, _client: Client, fields: Fields) -> dict[str, Any]:
        return {"layer": self._table.current_layer(_needed(fields, "batch"))}

    def _close(self, client: Client, fields: Fields) -> dict[str, Any]:
        slot = self._owned(client, fields)
        self._table.close(slot)
        self._forget(slot)
        return {}

    def _all(self, _client: Client, _fields: Fields) -> dict[str, Any]:
        return {**self._status(), "flows": [self._flow(report) for report in self._table.report()]}

    def _flow(self, report: FlowReport) -> dict[str, Any]:
        spec, slack_ns = report.spec, report.spec.deadline_ns - monotonic_after(0)
        owner = "kept" if spec.kept else "unclaimed" if report.flow in self.unclaimed else "client"
        return {
            "flow": report.flow,
            "match": str(spec.match),
            "batch": spec.batch,
            "number": spec.number,
            "stage": spec.stage.name,
            "slack_us": slack_ns // 1000,
            "target_layer": spec.target_layer,
            "current_layer": report.current_layer,
            "total_bytes": spec.total_bytes,
            "sent_bytes": report.state.sent_bytes,
            "packets": report.state.packets,
            "level": report.state.level,
            "owner": owner,
        }

    def _owned(self, client: Client, fields: Fields) -> int:
        slot = _needed(fields, "flow")
        if self._owners.get(slot, client) is not client:
            raise RequestError(f"flow {slot} is another client's")
        return slot

    def _forget(self, slot: int) -> None:
        self.unclaimed.discard(slot)
        owner = self._owners.pop(slot, None)
        if owner is not None:
            owner.flows.discard(slot)


def match_of(fields: object) -> Match:
    """The match that a request names.

    Raises:
        RequestError: there can be none such.
    """
    if not isinstance(fields, dict) or len(fields) != 1:
        raise RequestError('match is {"cookie": number}, {"cgroup": path or id} or {"addresses": {...}}')
    [(kind, value)] = fields.items()
    if kind == "addresses":
        if not isinstance(value, dict) or value.keys() != set(_ADDRESSES):
            raise RequestError(f"addresses are {', '.join(_ADDRESSES)}: all of them, nothing else")
        return Match(addresses=Tuple(**value))
    if kind == "cgroup":
        return Match(cgroup=cgroup_id(value) if isinstance(value, str) else value)
    if kind == "cookie":
        return Match(cookie=value)
    raise RequestError(f"no such match: {kind!r}; there are cookie, cgroup and addresses")


def _needed(fields: Fields, name: str) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise RequestError(f"{name} is a number, not {value!r}")
    return value


def _stage(value: object) -> Stage:
    try:
        return Stage[value] if isinstance(value, str) else Stage(value)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError):
        raise RequestError(f"no such stage: {value!r}; there are {', '.join(stage.name for stage in Stage)}") from None


def _deadline(fields: Fields) -> int | None:
    if "slack_us" not in fields:
        return _needed(fields, "deadline_ns") if "deadline_ns" in fields else None
    if "deadline_ns" in fields:
        raise RequestError("slack_us and deadline_ns say the same: give one")
    slack_us = _needed(fields, "slack_us")
    if not SLACK_MIN_US <= slack_us <= SLACK_MAX_US:
        raise RequestError(f"slack_us {slack_us} is not in {SLACK_MIN_US}..{SLACK_MAX_US}")
    return max(0, monotonic_after(slack_us))
