"""The tables of a program as BF Runtime describes them (JSON in the answer to GetForwardingPipelineConfig).

BF Runtime makes tables of everything: action profiles, selectors, counters and meters too. Names are those of the
P4Info below a prefix, such as ``pipe.``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mfs_ctrl.errors import PipelineError

PRIORITY = "$MATCH_PRIORITY"
MEMBER, MEMBER_STATUS = "$ACTION_MEMBER_ID", "$ACTION_MEMBER_STATUS"
GROUP, GROUP_SIZE = "$SELECTOR_GROUP_ID", "$MAX_GROUP_SIZE"
COUNTER_INDEX, COUNTER_BYTES, COUNTER_PACKETS = "$COUNTER_INDEX", "$COUNTER_SPEC_BYTES", "$COUNTER_SPEC_PKTS"
METER_INDEX = "$METER_INDEX"
CIR_KBPS, PIR_KBPS, CBS_KBITS, PBS_KBITS = (
    "$METER_SPEC_CIR_KBPS",
    "$METER_SPEC_PIR_KBPS",
    "$METER_SPEC_CBS_KBITS",
    "$METER_SPEC_PBS_KBITS",
)
_SELECTOR = "Selector"
_WIDTHS = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "bool": 1}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a key or of data: its number, its width in bits, and the kind of match of a key's field."""

    id: int
    name: str
    width: int
    match: str = ""

    def encode(self, value: int) -> bytes:
        """Return ``value`` in as many bytes as the service expects."""
        return value.to_bytes((self.width + 7) // 8, "big")


@dataclass(frozen=True, slots=True)
class ActionFields:
    """An action of a table, and its parameters by name."""

    id: int
    name: str
    params: Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class TableFields:
    """A table: the fields of its key and data by name, and its actions by the name that the P4Info gives them."""

    id: int
    name: str
    kind: str
    key: Mapping[str, Field]
    data: Mapping[str, Field]
    actions: Mapping[str, ActionFields]
    depends_on: tuple[int, ...]

    @property
    def actions_by_id(self) -> dict[int, ActionFields]:
        """The actions by number."""
        return {action.id: action for action in self.actions.values()}


class Schema:
    """The tables in ``info``, the JSON that describes a program.

    Raises:
        PipelineError: the JSON does not describe tables.
    """

    def __init__(self, info: bytes) -> None:
        try:
            self._tables = [_table(described) for described in json.loads(info)["tables"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PipelineError(f"cannot read the switch's description of its program: {error!r}") from None
        self.by_id = {table.id: table for table in self._tables}

    def table(self, name: str) -> TableFields:
        """Return the table that the P4Info calls ``name``.

        Raises:
            PipelineError: the switch's program has no such table.
        """
        for table in self._tables:
            if table.name == name or table.name.endswith(f".{name}"):
                return table
        known = ", ".join(table.name for table in self._tables)
        raise PipelineError(f"the program on the switch has no table {name}; it has {known or 'none'}")

    def selector(self, profile: str) -> TableFields:
        """Return the table of the groups of the action profile ``profile``.

        Raises:
            PipelineError: the profile has no selector.
        """
        members = self.table(profile).id
        for table in self._tables:
            if table.kind == _SELECTOR and members in table.depends_on:
                return table
        raise PipelineError(f"the program on the switch has no selector of the action profile {profile}")


def _table(described: Any) -> TableFields:
    fields = [field for item in described.get("data", []) for field in _singletons(item)]
    return TableFields(
        described["id"],
        described["name"],
        described.get("table_type", ""),
        {field["name"]: _field(field) for field in described["key"]},
        {field["name"]: _field(field) for field in fields},
        {
            action.name: action
            for action in (
                ActionFields(
                    spec["id"],
                    _short(spec["name"]),
                    {item["name"]: _field(item) for each in spec["data"] for item in _singletons(each)},
                )
                for spec in described.get("action_specs", [])
            )
        },
        tuple(described.get("depends_on", ())),
    )


def _short(action: str) -> str:
    """Return an action's name without the pipeline's; those of the program itself have no dot."""
    return action.rpartition(".")[2]


def _singletons(item: Any) -> list[Any]:
    """Return the fields that a list of data describes: one, or several of which an entry has one."""
    if "oneof" in item:
        return list(item["oneof"])
    return [item.get("singleton", item)]


def _field(described: Any) -> Field:
    # A field that contains others has no type of its own.
    kind = described.get("type", {})
    width = kind.get("width") or _WIDTHS.get(kind.get("type"), 32)
    return Field(described["id"], described["name"], width, described.get("match_type", ""))
