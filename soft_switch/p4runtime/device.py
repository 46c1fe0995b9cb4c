"""The device that P4Runtime clients see: its program, who may write to it, and its notifications.

Requests take turns, so reads never see half a batch, and writes of a previous primary are over before a new one is
announced. Packets do not wait for a whole request: each update is applied between two packets, and reads go on while
packets pass, since these change no entry. So counts are those of the moments at which each was read, as on any switch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from p4.v1 import p4runtime_pb2
from p4.v1.p4runtime_pb2 import GetForwardingPipelineConfigRequest as GetConfig
from p4.v1.p4runtime_pb2 import SetForwardingPipelineConfigRequest as SetConfig

from soft_switch.backend import Backend
from soft_switch.p4runtime import entities, packet_io, table_reads
from soft_switch.p4runtime.client_stream import ClientStream
from soft_switch.p4runtime.loaded_program import LoadedProgram, load_program
from soft_switch.p4runtime.reconcile import take_over
from soft_switch.p4runtime.sessions import Sessions, election_id
from soft_switch.p4runtime.status import (
    FAILED_PRECONDITION,
    RequestError,
    as_request_error,
    denied,
    invalid,
    not_found,
    unimplemented,
)
from soft_switch.pipeline import Pipeline

log = logging.getLogger(__name__)


class ControlledSwitch(Protocol):
    """What the server needs of a switch; `soft_switch.switch.Switch` is one."""

    pipeline: Pipeline | None
    cpu_port: int | None
    on_packet_in: Callable[[bytes], None] | None
    lock: threading.RLock

    def install(self, pipeline: Pipeline) -> None:
        """Run this pipeline from the next packet on."""

    def packet_out(self, data: bytes) -> None:
        """Process a packet as if it had been received on the CPU port."""


class Device:
    """One switch under P4Runtime.

    `clock` is that of the packets, in nanoseconds from any origin; `epoch_clock` gives nanoseconds since 1970.
    Notifications that wait for their time go out when someone calls :meth:`send_due`; `on_waiting` is called, from any
    thread, when that may be sooner than it said last.
    """

    def __init__(
        self,
        switch: ControlledSwitch,
        device_id: int,
        clock: Callable[[], int] = time.monotonic_ns,
        epoch_clock: Callable[[], int] = time.time_ns,
        backend: Backend = "auto",
    ) -> None:
        self.switch = switch
        self.device_id = device_id
        self.on_waiting: Callable[[], None] = lambda: None
        self._clock = clock
        self._epoch_clock = epoch_clock
        self._backend = backend
        # Taken before the switch's lock where both are, and held by all who change what follows.
        self._turn = threading.RLock()
        self._sessions = Sessions(device_id)
        # Reads and writes go to `_current`; it is not `_running` between VERIFY_AND_SAVE and COMMIT.
        self._running: LoadedProgram | None = None
        self._current: LoadedProgram | None = None
        switch.on_packet_in = self._packet_in

    # Checks that the specification asks of every request, in its order.

    def check_device(self, device_id: int) -> None:
        """NOT_FOUND unless this is the device that is meant."""
        if device_id != self.device_id:
            raise not_found(f"there is no device with id {device_id}; this server serves device {self.device_id}")

    def _check_primary(self, request: p4runtime_pb2.WriteRequest | SetConfig) -> None:
        """NOT_FOUND for a role that there is not, PERMISSION_DENIED when the client is not its primary."""
        role = request.role
        if request.role_id:
            raise not_found("numbers of roles (role_id) are of P4Runtime before 1.4; name the role in `role`")
        named = self._current is not None and role in self._current.roles.names
        if role and not named and not self._sessions.has_role(role):
            raise not_found(f"there is no role {role!r}: no client has it, and the P4Info does not name it")
        if not self._sessions.is_primary(role, election_id(request)):
            of_role = f" of role {role!r}" if role else ""
            raise denied(
                f"election id {_show(election_id(request))} is not that of the primary{of_role}; "
                "become primary on a StreamChannel first"
            )

    def _program(self) -> LoadedProgram:
        if self._current is None:
            raise RequestError(
                FAILED_PRECONDITION, "no forwarding pipeline config has been set; use SetForwardingPipelineConfig first"
            )
        return self._current

    # Streams and arbitration.

    def open_stream(self) -> ClientStream:
        """Admit a stream; RESOURCE_EXHAUSTED beyond MAX_STREAMS of them."""
        with self._turn, self.switch.lock:
            return self._sessions.open()

    def close_stream(self, stream: ClientStream) -> None:
        """The client is gone; if it was primary, there is none until a client claims it with an id as high."""
        with self._turn, self.switch.lock:
            self._sessions.close(stream)

    def stream_request(self, stream: ClientStream, request: p4runtime_pb2.StreamMessageRequest) -> None:
        """Handle one message of a client's stream. RequestError means that the stream is to be ended with it."""
        kind = request.WhichOneof("update")
        if kind == "arbitration":
            with self._turn, self.switch.lock:
                if self._sessions.arbitrate(stream, request.arbitration) and self._running is not None:
                    self._running.digests.forget_sent()
        elif kind == "packet":
            self._packet_out(stream, request.packet)
        elif kind == "digest_ack":
            self._digest_ack(stream, request.digest_ack)
        else:
            error = unimplemented("the stream takes arbitration, packet and digest_ack messages only")
            response = _stream_error(error)
            response.error.other.SetInParent()
            stream.offer(response)

    def _role_of_primary(self, stream: ClientStream, what: str) -> str:
        """The role of which the client is primary; PERMISSION_DENIED when it is not, `what` being what it wants."""
        role = self._sessions.role_as_primary(stream)
        if role is None:
            raise denied(f"only the primary can {what}")
        return role

    # Packets and digests.

    def _packet_out(self, stream: ClientStream, packet: p4runtime_pb2.PacketOut) -> None:
        try:
            with self.switch.lock:
                role = self._role_of_primary(stream, "send packets out")
                if self._running is None:
                    raise RequestError(FAILED_PRECONDITION, "no forwarding pipeline config has been committed")
                if not self._running.roles.has_packet_io(role, "packet_out"):
                    raise self._running.roles.refusal(role, "packet-out")
                if self.switch.cpu_port is None:
                    raise RequestError(FAILED_PRECONDITION, "this switch has no CPU port, so no packet-out")
                self.switch.packet_out(packet_io.pack_packet_out(self._running.info.packet_out, packet))
        except Exception as error:
            response = _stream_error(as_request_error(error))
            response.error.packet_out.packet_out.CopyFrom(packet)
            stream.offer(response)

    def _packet_in(self, data: bytes) -> None:
        with self.switch.lock:
            if self._running is None:
                return
            roles = self._running.roles
            receivers = [
                stream for role, stream in self._sessions.primaries() if roles.has_packet_io(role, "packet_in")
            ]
            if not receivers:
                return
            try:
                packet = packet_io.unpack_packet_in(self._running.info.packet_in, data)
            except packet_io.ShortPacketError as error:
                log.warning("dropped: %s", error)
                return
            for stream in receivers:
                stream.offer(p4runtime_pb2.StreamMessageResponse(packet=packet))

    def _digest_ack(self, stream: ClientStream, ack: p4runtime_pb2.DigestListAck) -> None:
        try:
            with self.switch.lock:
                role = self._role_of_primary(stream, "acknowledge digests")
                if self._running is None:
                    raise RequestError(FAILED_PRECONDITION, "no forwarding pipeline config has been committed")
                if not self._running.roles.owns(role, ack.digest_id):
                    raise self._running.roles.refusal(role, f"digest {ack.digest_id}")
                self._running.digests.acknowledge(ack)
        except RequestError as error:
            response = _stream_error(error)
            response.error.digest_list_ack.digest_list_ack.CopyFrom(ack)
            stream.offer(response)

    def _digest(self, name: str, values: tuple[int, ...]) -> None:
        """A digest message of the data plane; it is sent from here when that needs no waiting."""
        with self.switch.lock:
            if self._running is None:
                return
            if self._running.digests.offer(name, values, self._clock()):
                self.send_due()
            else:
                self.on_waiting()

    def send_due(self) -> int | None:
        """Send digests and idle timeouts whose time has come; nanoseconds until the next, None when none waits."""
        with self.switch.lock:
            if self._running is None:
                return None
            now_ns = self._clock()
            self._send_idle_timeouts(self._running, now_ns)
            book = self._running.digests
            for message in book.take_due(now_ns, self._epoch_clock()):
                receivers = self._receivers(self._running, message.digest_id)
                for stream in receivers:
                    stream.offer(p4runtime_pb2.StreamMessageResponse(digest=message))
                if not receivers:
                    book.forget(message)
            waiting = [time_ns for time_ns in (book.next_due_ns(), self._running.idle.next_ns()) if time_ns is not None]
            return max(0, min(waiting) - now_ns) if waiting else None

    def _send_idle_timeouts(self, program: LoadedProgram, now_ns: int) -> None:
        for name, entries in program.idle.take(now_ns).items():
            table = program.info.tables.by_name.get(name)
            if table is None:
                continue
            response = p4runtime_pb2.StreamMessageResponse()
            notification = response.idle_timeout_notification
            notification.timestamp = self._epoch_clock()
            for entry in entries:
                table_reads.idle_entry(program, table, entry, notification.table_entry.add())
            for stream in self._receivers(program, table.id):
                stream.offer(response)

    def _receivers(self, program: LoadedProgram, object_id: int) -> list[ClientStream]:
        """The primaries of all roles in whose scope the object is."""
        return [stream for role, stream in self._sessions.primaries() if program.roles.owns(role, object_id)]

    # Entities.

    def write(self, request: p4runtime_pb2.WriteRequest) -> list[RequestError | None]:
        """Carry out a batch; one result per update. RequestError when the request as a whole is refused."""
        self.check_device(request.device_id)
        with self._turn:
            self._check_primary(request)
            program = self._program()
            if request.atomicity not in p4runtime_pb2.WriteRequest.Atomicity.values():
                raise invalid(f"atomicity {request.atomicity} is unknown; leave it unset, or see the specification")
            # Rolled back or atomic for the data plane: the one that is both serves for either.
            whole = request.atomicity != p4runtime_pb2.WriteRequest.CONTINUE_ON_ERROR
            write = entities.write_all_or_none if whole else entities.write_batch
            before_ns = program.idle.next_ns()
            results = write(program, request.updates, self.switch.lock, request.role)

            after_ns = program.idle.next_ns()
            if after_ns is not None and (before_ns is None or after_ns < before_ns):
                self.on_waiting()
            return results

    def read(
        self, request: p4runtime_pb2.ReadRequest
    ) -> tuple[list[p4runtime_pb2.ReadResponse], list[RequestError | None]]:
        """What the requests select, in responses to be sent; and one result per request."""
        self.check_device(request.device_id)
        with self._turn:
            return entities.read_batch(self._program(), request.entities, request.role)

    # Pipeline config.

    def set_config(self, request: SetConfig) -> None:
        """Verify, save or commit a pipeline config; on any error the pipeline that runs is untouched."""
        self.check_device(request.device_id)
        with self._turn:
            self._check_primary(request)
            if self._current is not None and self._current.roles.restricts(request.role):
                raise self._current.roles.refusal(request.role, "the pipeline config")
        if request.action == SetConfig.COMMIT:
            self._commit_saved(request)
            return
        if request.action not in SetConfig.Action.values() or request.action == SetConfig.UNSPECIFIED:
            raise invalid(f"action {request.action} is unknown; it is one of {', '.join(SetConfig.Action.keys()[1:])}")
        if not request.HasField("config"):
            raise invalid("no config is given")
        # Compiling takes a while, and packets need not wait for it.
        program = load_program(request.config, self._clock, self._backend)
        if request.action == SetConfig.VERIFY:
            return
        with self._turn:
            self._check_primary(request)
            with self.switch.lock:
                if request.action == SetConfig.RECONCILE_AND_COMMIT and self._running is not None:
                    take_over(self._running, program)
                self._current = program
                if request.action != SetConfig.VERIFY_AND_SAVE:
                    self._run(program)

    def load(self, config: p4runtime_pb2.ForwardingPipelineConfig) -> Pipeline:
        """Run a program without a client's request, as when a switch starts with one; the pipeline that runs it."""
        program = load_program(config, self._clock, self._backend)
        with self._turn:
            self._current = program
            self._run(program)
        return program.pipeline

    def _commit_saved(self, request: SetConfig) -> None:
        if request.HasField("config"):
            raise invalid("COMMIT realises the saved config; leave `config` unset")
        with self._turn:
            self._check_primary(request)
            if self._current is None or self._current is self._running:
                raise not_found("no config is saved; use VERIFY_AND_SAVE first")
            self._run(self._current)

    def _run(self, program: LoadedProgram) -> None:
        program.pipeline.on_digest = self._digest
        with self.switch.lock:
            self.switch.install(program.pipeline)
            self._running = program
            program.idle.start(self._clock())
            self.on_waiting()

    def get_config(self, request: GetConfig) -> p4runtime_pb2.GetForwardingPipelineConfigResponse:
        """The config that reads and writes refer to; `config` is unset when there is none."""
        self.check_device(request.device_id)
        response = p4runtime_pb2.GetForwardingPipelineConfigResponse()
        with self._turn:
            if self._current is None:
                return response
            config = self._current.config
        response.config.SetInParent()
        if config.HasField("cookie"):
            response.config.cookie.CopyFrom(config.cookie)
        if request.response_type in (GetConfig.ALL, GetConfig.P4INFO_AND_COOKIE):
            response.config.p4info.CopyFrom(config.p4info)
        if request.response_type in (GetConfig.ALL, GetConfig.DEVICE_CONFIG_AND_COOKIE):
            response.config.p4_device_config = config.p4_device_config
        return response


def _show(election_id: int | None) -> str:
    return "(unset)" if election_id is None else str(election_id)


def _stream_error(error: RequestError) -> p4runtime_pb2.StreamMessageResponse:
    response = p4runtime_pb2.StreamMessageResponse()
    response.error.canonical_code = error.code
    response.error.message = error.message
    response.error.space = "soft_switch"
    return response
