"""The connected clients: their streams, their roles, and the primary of each role.

Not thread-safe: the caller holds a lock. Rules: specification, "Client Arbitration and Controller Replication".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf import any_pb2
from google.rpc import status_pb2
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.arbitration import Arbiter, Notice
from soft_switch.p4runtime.client_stream import ClientStream
from soft_switch.p4runtime.status import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    NOT_FOUND,
    OK,
    RESOURCE_EXHAUSTED,
    RequestError,
    invalid,
    not_found,
    unimplemented,
)

MAX_STREAMS = 32
MAX_ROLES = 64
"""Most roles; the highest election id of each is kept forever."""
MAX_ROLE_NAME = 256
MAX_ROLE_CONFIG = 1 << 16
STANDING = {OK: "you are primary", ALREADY_EXISTS: "there is another primary", NOT_FOUND: "there is no primary"}


class Sessions:
    """All streams of a device."""

    def __init__(self, device_id: int) -> None:
        self._device_id = device_id
        self._arbiters: dict[str, Arbiter[ClientStream]] = {}
        # The role.config that the last primary of each role gave: stored and reported, not interpreted.
        self._configs: dict[str, any_pb2.Any] = {}
        # None until the first arbitration message.
        self._roles: dict[ClientStream, str | None] = {}

    def open(self) -> ClientStream:
        """Admit a stream.

        Raises:
            RequestError: RESOURCE_EXHAUSTED if there are MAX_STREAMS already.
        """
        if len(self._roles) >= MAX_STREAMS:
            raise RequestError(RESOURCE_EXHAUSTED, f"{MAX_STREAMS} streams are open, which is the maximum")
        stream = ClientStream()
        self._roles[stream] = None
        return stream

    def close(self, stream: ClientStream) -> None:
        """Remove a stream. If it was primary, there is none until a client has an id at least as high."""
        role = self._roles.pop(stream, None)
        if role is None:
            return
        arbiter = self._arbiters[role]
        self._announce(role, arbiter.leave(stream))
        if arbiter.highest is None and not arbiter.clients:
            del self._arbiters[role]

    def arbitrate(self, stream: ClientStream, message: p4runtime_pb2.MasterArbitrationUpdate) -> bool:
        """Handle an arbitration message; return whether another client became primary.

        Raises:
            RequestError: end the stream with this status.
        """
        if stream not in self._roles:
            return False  # It was closed in the meantime.
        role = self._checked_role(self._roles[stream], message)
        arbiter = self._arbiters.get(role)
        if arbiter is None:
            if len(self._arbiters) >= MAX_ROLES:
                raise RequestError(RESOURCE_EXHAUSTED, f"{MAX_ROLES} roles are in use, which is the maximum")
            arbiter = self._arbiters[role] = Arbiter()
        before = arbiter.primary
        notices = arbiter.update(stream, election_id(message))
        self._roles[stream] = role
        if arbiter.primary == stream:
            self._configs.pop(role, None)
            if message.role.HasField("config"):
                self._configs[role] = any_pb2.Any()
                self._configs[role].CopyFrom(message.role.config)
        self._announce(role, notices)
        return arbiter.primary not in (None, before)

    def _checked_role(self, current: str | None, message: p4runtime_pb2.MasterArbitrationUpdate) -> str:
        if message.device_id != self._device_id:
            if current is not None:
                raise RequestError(FAILED_PRECONDITION, "a stream cannot change its device; open another stream")
            raise not_found(f"there is no device with id {message.device_id}; this server has {self._device_id}")
        role = str(message.role.name)
        if current is not None and (role != current or message.role.id):
            raise RequestError(FAILED_PRECONDITION, "a stream cannot change its role; open another stream")
        if message.role.id:
            raise unimplemented("role.id belongs to P4Runtime before 1.4; give the role a name")
        if len(role) > MAX_ROLE_NAME:
            raise invalid(f"the name of the role has {len(role)} characters; at most {MAX_ROLE_NAME} are allowed")
        if message.role.config.ByteSize() > MAX_ROLE_CONFIG:
            raise invalid(f"role.config exceeds {MAX_ROLE_CONFIG} bytes")
        return role

    def has_role(self, role: str) -> bool:
        """Return whether a client has, or had, this role."""
        return role in self._arbiters

    def is_primary(self, role: str, number: int | None) -> bool:
        """Return whether a request with this role and election id comes from a primary."""
        arbiter = self._arbiters.get(role)
        return arbiter is not None and arbiter.is_primary(number)

    def role_as_primary(self, stream: ClientStream) -> str | None:
        """Return the role of which this client is primary, if any."""
        role = self._roles.get(stream)
        return role if role is not None and self._arbiters[role].primary == stream else None

    def primaries(self) -> Iterator[tuple[str, ClientStream]]:
        """Yield each role that has a primary, with the primary."""
        for role, arbiter in self._arbiters.items():
            if arbiter.primary is not None:
                yield role, arbiter.primary

    def _announce(self, role: str, notices: Sequence[Notice[ClientStream]]) -> None:
        for notice in notices:
            response = p4runtime_pb2.StreamMessageResponse()
            update = response.arbitration
            update.device_id = self._device_id
            if role:
                update.role.name = role
            if role in self._configs:
                update.role.config.CopyFrom(self._configs[role])
            if notice.election_id is not None:
                update.election_id.high = notice.election_id >> 64
                update.election_id.low = notice.election_id & ((1 << 64) - 1)
            update.status.CopyFrom(status_pb2.Status(code=notice.code, message=STANDING[notice.code]))
            notice.client.send(response)


def election_id(
    message: (
        p4runtime_pb2.WriteRequest
        | p4runtime_pb2.SetForwardingPipelineConfigRequest
        | p4runtime_pb2.MasterArbitrationUpdate
    ),
) -> int | None:
    """Return the election id of a message as a number of 128 bits; None if it is not set."""
    if not message.HasField("election_id"):
        return None
    return int(message.election_id.high) << 64 | int(message.election_id.low)
