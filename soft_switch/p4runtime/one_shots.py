"""Action sets written in one shot with a table entry (specification, "One Shot Action Selector Programming").

They are implemented by a group and members with internal ids, which clients never see: a profile is programmed either
by one-shot sets or by members and groups, never by both.
"""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.actions import decode_action
from soft_switch.p4runtime.loaded_program import LoadedProgram, OneShot
from soft_switch.p4runtime.p4info import ProfileInfo, TableInfo
from soft_switch.p4runtime.status import RESOURCE_EXHAUSTED, RequestError, invalid, unimplemented
from soft_switch.tables.action_profile import ActionProfile
from soft_switch.tables.matches import ActionCall


def make_one_shot(program: LoadedProgram, table: TableInfo, message: p4runtime_pb2.ActionProfileActionSet) -> OneShot:
    """Create the members and the group of a new action set."""
    profile, state = _profile(program, table)
    if (state.members or state.groups) and not program.one_shots.get(profile.name):
        raise invalid(f"action profile {profile.name} has members or groups already; the two styles do not mix")
    calls = _decode_calls(table, profile, message)
    _check_capacity(profile, state, len(calls))
    member_ids = _free_ids(state, len(calls))
    for member_id, (call, _) in zip(member_ids, calls, strict=True):
        state.add_member(member_id, call)
    group_id = max(state.groups, default=0) + 1
    state.add_group(group_id, _weights(member_ids, calls), 0)
    program.one_shots[profile.name] = program.one_shots.get(profile.name, 0) + 1
    return _one_shot(message, group_id, member_ids)


def replace_one_shot(
    program: LoadedProgram, table: TableInfo, old: OneShot, message: p4runtime_pb2.ActionProfileActionSet
) -> OneShot:
    """Give the group of ``old`` another action set; its entry does not change."""
    profile, state = _profile(program, table)
    calls = _decode_calls(table, profile, message)
    _check_capacity(profile, state, len(calls) - len(old.member_ids))
    kept = old.member_ids[: len(calls)]
    for member_id, (call, _) in zip(kept, calls, strict=False):
        state.modify_member(member_id, call)
    added = _free_ids(state, len(calls) - len(kept))
    for member_id, (call, _) in zip(added, calls[len(kept) :], strict=True):
        state.add_member(member_id, call)
    state.modify_group(old.group_id, _weights(kept + added, calls))
    for member_id in old.member_ids[len(kept) :]:
        state.delete_member(member_id)
    return _one_shot(message, old.group_id, kept + added)


def release_one_shot(program: LoadedProgram, table: TableInfo, one_shot: OneShot) -> None:
    """Remove the group and members of an action set that no entry uses anymore."""
    profile, state = _profile(program, table)
    state.delete_group(one_shot.group_id)
    for member_id in one_shot.member_ids:
        state.delete_member(member_id)
    program.one_shots[profile.name] -= 1


def _one_shot(message: p4runtime_pb2.ActionProfileActionSet, group_id: int, member_ids: list[int]) -> OneShot:
    kept = p4runtime_pb2.ActionProfileActionSet()
    kept.CopyFrom(message)
    return OneShot(kept, group_id, member_ids)


def _profile(program: LoadedProgram, table: TableInfo) -> tuple[ProfileInfo, ActionProfile]:
    if table.profile is None or not table.profile.with_selector:
        raise invalid(f"table {table.name} has no action selector: its entries cannot have an action set")
    return table.profile, program.pipeline.action_profiles[table.profile.name]


def _decode_calls(
    table: TableInfo, profile: ProfileInfo, message: p4runtime_pb2.ActionProfileActionSet
) -> list[tuple[ActionCall, int]]:
    """Return the actions of the set with their weights."""
    calls = []
    for item in message.action_profile_actions:
        if item.weight < 1:
            raise invalid(f"table {table.name}: weight {item.weight} in an action set; weights are 1 or more")
        refuse_watch_port(item, f"table {table.name}")
        calls.append((decode_action(table, item.action), int(item.weight)))
    total = sum(weight for _, weight in calls)
    if 0 < profile.max_group_size < total:
        raise invalid(
            f"table {table.name}: the weights of the action set add up to {total}; "
            f"{profile.name} allows {profile.max_group_size}"
        )
    return calls


def refuse_watch_port(
    item: p4runtime_pb2.ActionProfileAction | p4runtime_pb2.ActionProfileGroup.Member, what: str
) -> None:
    """Refuse watch ports: every port of this switch is always up."""
    if item.watch_port or item.watch:
        raise unimplemented(f"{what}: watch ports are not supported; leave watch_port empty")


def _check_capacity(profile: ProfileInfo, state: ActionProfile, more: int) -> None:
    if len(state.members) + more > state.size:
        raise RequestError(
            RESOURCE_EXHAUSTED,
            f"action profile {profile.name} has {len(state.members)} of {state.size} members; {more} more do not fit",
        )


def _free_ids(state: ActionProfile, count: int) -> list[int]:
    first = max(state.members, default=0) + 1
    return list(range(first, first + count))


def _weights(member_ids: list[int], calls: list[tuple[ActionCall, int]]) -> dict[int, int]:
    return {member_id: weight for member_id, (_, weight) in zip(member_ids, calls, strict=True)}
