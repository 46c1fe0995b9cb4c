"""Members and groups of action profiles (specification, "ActionProfileMember & ActionProfileGroup")."""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.actions import decode_action, encode_action
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.one_shots import refuse_watch_port
from soft_switch.p4runtime.p4info import ProfileInfo
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import ALREADY_EXISTS, RESOURCE_EXHAUSTED, RequestError, invalid, not_found
from soft_switch.tables.action_profile import ActionProfile
from soft_switch.tables.matches import ActionCall

INSERT = p4runtime_pb2.Update.INSERT
MODIFY = p4runtime_pb2.Update.MODIFY
DELETE = p4runtime_pb2.Update.DELETE


def _writable(program: LoadedProgram, profile_id: int) -> tuple[ProfileInfo, ActionProfile]:
    """Return the profile to write, or raise INVALID_ARGUMENT while one-shot action sets use it."""
    info = program.info.profiles.get(profile_id)
    if program.one_shots.get(info.name):
        raise invalid(f"action profile {info.name} is in use by one-shot action sets; the two styles do not mix")
    return info, program.pipeline.action_profiles[info.name]


def write_member(program: LoadedProgram, update_type: int, message: p4runtime_pb2.ActionProfileMember) -> None:
    """Carry out an update of a member.

    Raises:
        RequestError: nothing has changed.
    """
    profile, state = _writable(program, message.action_profile_id)
    member_id = int(message.member_id)
    what = f"member {member_id} of {profile.name}"
    if member_id == 0:
        raise invalid(f"action profile {profile.name}: no member id given; it must not be 0 here")
    exists = member_id in state.members
    if update_type == INSERT:
        if exists:
            raise RequestError(ALREADY_EXISTS, f"{what} already exists")
        state.add_member(member_id, _member_call(program, profile, message))
        return
    if not exists:
        raise not_found(f"{what} does not exist")
    if update_type == MODIFY:
        state.modify_member(member_id, _member_call(program, profile, message))
        return
    state.delete_member(member_id)


def _member_call(
    program: LoadedProgram, profile: ProfileInfo, message: p4runtime_pb2.ActionProfileMember
) -> ActionCall:
    if not message.HasField("action"):
        raise invalid(f"member {message.member_id} of {profile.name} needs an action")
    # All tables that share a profile list the same actions.
    table = program.info.tables.get(profile.table_ids[0])
    return decode_action(table, message.action)


def write_group(program: LoadedProgram, update_type: int, message: p4runtime_pb2.ActionProfileGroup) -> None:
    """Carry out an update of a group.

    Raises:
        RequestError: nothing has changed.
    """
    profile, state = _writable(program, message.action_profile_id)
    if not profile.with_selector:
        raise invalid(f"action profile {profile.name} has no selector, so no groups")
    group_id = int(message.group_id)
    what = f"group {group_id} of {profile.name}"
    if group_id == 0:
        raise invalid(f"action profile {profile.name}: no group id given; it must not be 0 here")
    exists = group_id in state.groups
    if update_type == INSERT:
        if exists:
            raise RequestError(ALREADY_EXISTS, f"{what} already exists")
        max_size = _checked_max_size(profile, message)
        state.add_group(group_id, _weights(profile, state, message, max_size), max_size)
        program.group_max_sizes[profile.name, group_id] = int(message.max_size)
        return
    if not exists:
        raise not_found(f"{what} does not exist")
    if update_type == MODIFY:
        written = program.group_max_sizes.get((profile.name, group_id), 0)
        if message.max_size != written:
            raise invalid(f"{what} was created with max_size {written}, which cannot be changed to {message.max_size}")
        state.modify_group(group_id, _weights(profile, state, message, _checked_max_size(profile, message)))
        return
    state.delete_group(group_id)
    program.group_max_sizes.pop((profile.name, group_id), None)


def _checked_max_size(profile: ProfileInfo, message: p4runtime_pb2.ActionProfileGroup) -> int:
    """Return the bound of the group: its own, otherwise the profile's; 0 for none."""
    if message.max_size < 0:
        raise invalid(f"group {message.group_id} of {profile.name}: max_size must be 0 or more, not {message.max_size}")
    if 0 < profile.max_group_size < message.max_size:
        raise invalid(
            f"group {message.group_id} of {profile.name}: max_size {message.max_size} is above the "
            f"max_group_size {profile.max_group_size} of the P4Info"
        )
    return int(message.max_size) or profile.max_group_size


def _weights(
    profile: ProfileInfo, state: ActionProfile, message: p4runtime_pb2.ActionProfileGroup, max_size: int
) -> dict[int, int]:
    what = f"group {message.group_id} of {profile.name}"
    weights: dict[int, int] = {}
    for member in message.members:
        if member.member_id in weights:
            raise invalid(f"{what}: member {member.member_id} is given twice; use its weight instead")
        if member.weight < 1:
            raise invalid(f"{what}: member {member.member_id} has weight {member.weight}; weights are 1 or more")
        refuse_watch_port(member, what)
        if member.member_id not in state.members:
            raise not_found(f"{what}: member {member.member_id} does not exist")
        weights[int(member.member_id)] = int(member.weight)
    total = sum(weights.values())
    if 0 < max_size < total:
        raise RequestError(RESOURCE_EXHAUSTED, f"{what}: its weights add up to {total}, above its max_size {max_size}")
    return weights


def _selected(program: LoadedProgram, profile_id: int) -> list[ProfileInfo]:
    """Return the profiles that a read selects; those with one-shot sets show no members and groups."""
    selected = [program.info.profiles.get(profile_id)] if profile_id else list(program.info.profiles)
    return [profile for profile in selected if not program.one_shots.get(profile.name)]


def read_members(program: LoadedProgram, request: p4runtime_pb2.ActionProfileMember, found: ReadResponses) -> None:
    """Read one member (NOT_FOUND if it does not exist), all of a profile (member id 0), or all of all profiles."""
    for profile in _selected(program, request.action_profile_id):
        members = program.pipeline.action_profiles[profile.name].members
        if request.action_profile_id and request.member_id and request.member_id not in members:
            raise not_found(f"member {request.member_id} of {profile.name} does not exist")
        for member_id, call in members.items():
            if request.member_id in (0, member_id):
                message = found.add().action_profile_member
                message.action_profile_id = profile.id
                message.member_id = member_id
                encode_action(program.info, call, message.action)


def read_groups(program: LoadedProgram, request: p4runtime_pb2.ActionProfileGroup, found: ReadResponses) -> None:
    """Read one group (NOT_FOUND if it does not exist), all of a profile (group id 0), or all of all profiles."""
    for profile in _selected(program, request.action_profile_id):
        groups = program.pipeline.action_profiles[profile.name].groups
        if request.action_profile_id and request.group_id and request.group_id not in groups:
            raise not_found(f"group {request.group_id} of {profile.name} does not exist")
        for group_id, group in groups.items():
            if request.group_id in (0, group_id):
                message = found.add().action_profile_group
                message.action_profile_id = profile.id
                message.group_id = group_id
                message.max_size = program.group_max_sizes.get((profile.name, group_id), 0)
                for member_id, weight in group.members.items():
                    message.members.add(member_id=member_id, weight=weight)
