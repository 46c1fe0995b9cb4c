"""Brings a switch to the desired state by writing differences, in an order that never interrupts traffic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from mfs_ctrl.desired import PolicyRows
from mfs_ctrl.errors import ControlError, DesiredStateError
from mfs_ctrl.p4rt.entries import (
    DefaultAction,
    Entity,
    Exact,
    Key,
    MeterConfig,
    ProfileGroup,
    ProfileMember,
    TableEntry,
)
from mfs_ctrl.p4rt.updates import DELETE, INSERT, MODIFY, Update

if TYPE_CHECKING:
    from mfs_ctrl.p4rt.p4info import P4InfoIndex
    from mfs_ctrl.switch import Switch

RMLQ = "rmlq"
EPOCH = "epoch"
EPOCHS = (0, 1)
"""The numbers that tag the set of policy rows in force and the set that replaces it."""


@dataclass(frozen=True, slots=True)
class WriteReport:
    """Numbers of updates written, by kind, and of the requests that carried them."""

    inserts: int = 0
    modifies: int = 0
    deletes: int = 0
    requests: int = 0

    @property
    def updates(self) -> int:
        """Updates of all kinds."""
        return self.inserts + self.modifies + self.deletes


class Writer:
    """Writer of differences: reads the state of the switch once and tracks it.

    Changes by other clients are noticed only after :meth:`resync`. After an error the state is read again.
    """

    def __init__(self, switch: Switch, index: P4InfoIndex) -> None:
        self._switch = switch
        self._index = index
        self._held: dict[Key, Entity] | None = None

    def resync(self) -> None:
        """Forget the tracked state; it is read again before the next write."""
        self._held = None

    def held(self) -> Collection[Entity]:
        """Return what the switch holds.

        Raises:
            SessionError: the switch cannot be reached.
        """
        return self._read().values()

    def rows_in_force(self) -> list[TableEntry]:
        """Return the rows of the policy that packets are matched with.

        Raises:
            SessionError: as for :meth:`held`.
        """
        active = active_epoch(self.held())
        return [entity for entity in self.held() if _is_policy_row(entity) and epoch_of(entity) == active]

    def apply(self, base: Iterable[Entity], policy: PolicyRows) -> WriteReport:
        """Bring the switch to ``base`` and ``policy``, and remove all other entities.

        Raises:
            DesiredStateError: two sets of the policy's rows do not fit in the table, or two entities have one key.
            SessionError: the switch cannot be reached or refuses an update.
        """
        desired = by_key(base)
        rmlq_size = self._index.tables.named(RMLQ).size
        if 2 * len(policy.rules) > rmlq_size:
            raise DesiredStateError(
                f"a policy of {len(policy.rules)} rules is too large: table {RMLQ} has {rmlq_size} rows and must hold "
                f"the old and the new rows during a change; use at most {rmlq_size // 2} rules"
            )
        held = self._read()
        tally = _Tally()
        try:
            outside = {
                key: self._as_asked(entity, desired.get(key))
                for key, entity in held.items()
                if not _of_policy(entity) and (key in desired or not self._is_initial(entity))
            }
            for phase in base_phases(outside, desired):
                self._write(phase, tally)
            for phase in policy_phases([entity for entity in held.values() if _of_policy(entity)], policy):
                self._write(phase, tally)
        except ControlError:
            self.resync()
            raise
        return WriteReport(tally.inserts, tally.modifies, tally.deletes, tally.requests)

    def _read(self) -> dict[Key, Entity]:
        if self._held is None:
            self._held = by_key(self._switch.read_state(self._index))
        return self._held

    def _as_asked(self, present: Entity, wanted: Entity | None) -> Entity:
        return wanted if wanted is not None and self._switch.holds(present, wanted) else present

    def _is_initial(self, entity: Entity) -> bool:
        # The program's own default action cannot be removed.
        return isinstance(entity, DefaultAction) and (
            self._index.tables.named(entity.table).initial_default == entity.call
        )

    def _write(self, updates: Sequence[Update], tally: _Tally) -> None:
        if not updates or self._held is None:
            return
        tally.requests += self._switch.write(updates, self._index)
        for update in updates:
            if update.operation == DELETE:
                self._held.pop(update.entity.key, None)
                tally.deletes += 1
            else:
                self._held[update.entity.key] = update.entity
                tally.inserts += update.operation == INSERT
                tally.modifies += update.operation == MODIFY


@dataclass(slots=True)
class _Tally:
    inserts: int = 0
    modifies: int = 0
    deletes: int = 0
    requests: int = 0


def by_key(entities: Iterable[Entity]) -> dict[Key, Entity]:
    """Return the entities by key.

    Raises:
        DesiredStateError: two different entities have the same key.
    """
    found: dict[Key, Entity] = {}
    for entity in entities:
        other = found.setdefault(entity.key, entity)
        if other != entity:
            raise DesiredStateError(f"two entities for the same object: {other}; {entity}")
    return found


def base_phases(held: dict[Key, Entity], desired: dict[Key, Entity]) -> list[list[Update]]:
    """Return the updates from ``held`` to ``desired`` in phases: referenced objects come first and go last."""
    changes = []
    for key, entity in desired.items():
        present = held.get(key)
        if present is None:
            # Default actions and meter cells always exist; those that were not read have their initial values.
            operation = MODIFY if isinstance(entity, DefaultAction | MeterConfig) else INSERT
            changes.append(Update(operation, entity))
        elif not _same(present, entity):
            changes.append(Update(MODIFY, _as_modified(present, entity)))
    gone = [Update(DELETE, entity) for key, entity in held.items() if key not in desired]
    kinds: tuple[Callable[[Entity], bool], ...] = (_is_member, _is_group, _is_row)
    phases = [[change for change in changes if belongs(change.entity)] for belongs in kinds]
    phases += [[change for change in gone if belongs(change.entity)] for belongs in reversed(kinds)]
    return [phase for phase in phases if phase]


def policy_phases(held: Sequence[Entity], policy: PolicyRows) -> list[list[Update]]:
    """Return the updates that put ``policy`` into force. ``held``: the rows of ``rmlq``, the default of ``epoch``.

    The new rows are inserted beside those in force, one write switches to them, and then the old rows are deleted, so
    that every packet sees a complete set.
    """
    rows = [entity for entity in held if isinstance(entity, TableEntry)]
    active = active_epoch(held)
    in_force = {row.key: row for row in rows if epoch_of(row) == active}
    if in_force == {row.key: row for row in policy.entries(active)}:
        new = active
    else:
        new = next(number for number in EPOCHS if number != active)
    wanted = {row.key: row for row in policy.entries(new)}
    activation = policy.activation(new)
    phases: list[list[Update]] = []
    if new != active:
        beside = {row.key: row for row in rows if epoch_of(row) == new}
        phases.append([Update(DELETE, row) for key, row in beside.items() if key not in wanted])
        phases.append(
            [Update(MODIFY if key in beside else INSERT, row) for key, row in wanted.items() if beside.get(key) != row]
        )
    if activation not in held:
        phases.append([Update(MODIFY, activation)])
    phases.append([Update(DELETE, row) for row in rows if epoch_of(row) != new])
    return [phase for phase in phases if phase]


def active_epoch(entities: Iterable[Entity]) -> int:
    """Return the epoch in force: the argument of the default action of ``epoch``, initially 0."""
    for entity in entities:
        if isinstance(entity, DefaultAction) and entity.table == EPOCH and entity.call.args:
            return entity.call.args[0]
    return 0


def epoch_of(row: TableEntry) -> int:
    """Return the epoch of a row of ``rmlq``; -1 if the row does not match on one."""
    value = dict(row.match).get(EPOCH)
    return value.value if isinstance(value, Exact) else -1


def _is_policy_row(entity: Entity) -> TypeGuard[TableEntry]:
    return isinstance(entity, TableEntry) and entity.table == RMLQ


def _of_policy(entity: Entity) -> bool:
    return _is_policy_row(entity) or (isinstance(entity, DefaultAction) and entity.table == EPOCH)


def _same(present: Entity, wanted: Entity) -> bool:
    # The maximum size of an existing group cannot be changed, and only bounds it.
    return present == wanted or _as_modified(present, wanted) == present


def _as_modified(present: Entity, wanted: Entity) -> Entity:
    if isinstance(present, ProfileGroup) and isinstance(wanted, ProfileGroup):
        return dataclasses.replace(wanted, max_size=present.max_size)
    return wanted


def _is_member(entity: Entity) -> bool:
    return isinstance(entity, ProfileMember)


def _is_group(entity: Entity) -> bool:
    return isinstance(entity, ProfileGroup)


def _is_row(entity: Entity) -> bool:
    return isinstance(entity, TableEntry | DefaultAction | MeterConfig)
