"""Parser value sets (specification, "ValueSetEntry")."""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.matches import decode_fields, encode_match
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import ALREADY_EXISTS, RESOURCE_EXHAUSTED, RequestError, invalid


def write_value_set(program: LoadedProgram, update_type: int, message: p4runtime_pb2.ValueSetEntry) -> None:
    """Replace all members of a value set; only MODIFY is possible.

    Raises:
        RequestError: nothing has changed.
    """
    if update_type != p4runtime_pb2.Update.MODIFY:
        raise invalid("a value set always exists: only MODIFY is possible; without members it empties the set")
    info = program.info.value_sets.get(message.value_set_id)
    if len(message.members) > info.size:
        raise RequestError(
            RESOURCE_EXHAUSTED, f"value set {info.name} holds {info.size} members; {len(message.members)} do not fit"
        )
    what = f"value set {info.name}"
    members = [decode_fields(what, info.fields, member.match) for member in message.members]
    for number, member in enumerate(members):
        if member in members[:number]:
            raise RequestError(ALREADY_EXISTS, f"{what}: member {number + 1} repeats an earlier one")
    program.pipeline.value_sets[info.name].set(members)


def read_value_sets(program: LoadedProgram, request: p4runtime_pb2.ValueSetEntry, found: ReadResponses) -> None:
    """Read one value set, or all (id 0), each with all its members."""
    if request.members:
        raise invalid("a read of a value set returns all its members; leave `members` empty")
    selected = (
        [program.info.value_sets.get(request.value_set_id)] if request.value_set_id else list(program.info.value_sets)
    )
    for info in selected:
        message = found.add().value_set_entry
        message.value_set_id = info.id
        for member in program.pipeline.value_sets[info.name].members:
            encode_match(info.fields, member, message.members.add())
