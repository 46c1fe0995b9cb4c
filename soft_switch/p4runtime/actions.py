"""Actions with their arguments: P4Runtime Action <-> ActionCall (specification, "Action Specification")."""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import bytestrings
from soft_switch.p4runtime.p4info import ActionInfo, ProgramInfo, TableInfo
from soft_switch.p4runtime.status import denied, invalid
from soft_switch.tables.matches import ActionCall


def decode_action(table: TableInfo, action: p4runtime_pb2.Action, as_default: bool = False) -> ActionCall:
    """Return the call that an entry of ``table`` (or its default) makes.

    Raises:
        RequestError: INVALID_ARGUMENT for an action that the table does not list, or for parameters that are missing,
            unknown or repeated; OUT_OF_RANGE for a value that is too wide; PERMISSION_DENIED for an action out of its
            scope.
    """
    use = table.uses.get(action.action_id)
    if use is None:
        allowed = ", ".join(f"{each.action.name} ({each.action.id})" for each in table.uses.values())
        raise invalid(f"table {table.name} has no action with id {action.action_id}; its actions are: {allowed}")
    if as_default and not use.as_default:
        raise denied(f"table {table.name}: action {use.action.name} is @tableonly; it cannot be the default action")
    if not as_default and not use.in_entries:
        raise denied(f"table {table.name}: action {use.action.name} is @defaultonly; no entry can have it")
    return ActionCall(use.action.name, _decode_params(use.action, action, table.name))


def _decode_params(info: ActionInfo, action: p4runtime_pb2.Action, table: str) -> tuple[int, ...]:
    what = f"table {table}, action {info.name}"
    given: dict[int, bytes] = {}
    known = ", ".join(f"{param.name} ({param.id})" for param in info.params) or "none"
    for item in action.params:
        if all(param.id != item.param_id for param in info.params):
            raise invalid(f"{what}: unknown parameter id {item.param_id}; its parameters are: {known}")
        if item.param_id in given:
            raise invalid(f"{what}: parameter id {item.param_id} is given twice")
        given[item.param_id] = item.value
    args = []
    for param in info.params:
        if param.id not in given:
            raise invalid(f"{what}: parameter {param.name} ({param.id}) is missing")
        args.append(bytestrings.decode(given[param.id], param.width, f"{what}, parameter {param.name}"))
    return tuple(args)


def encode_action(info: ProgramInfo, call: ActionCall, message: p4runtime_pb2.Action) -> None:
    """Fill in the Action message of a call."""
    action = info.actions.by_name[call.action]
    message.action_id = action.id
    for param, value in zip(action.params, call.args, strict=True):
        target = message.params.add()
        target.param_id = param.id
        target.value = bytestrings.encode(value)
