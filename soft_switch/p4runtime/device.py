"""The device that P4Runtime clients see: its program, and who may write to it.

Requests take turns, so reads never see half a batch, and writes of a previous primary are complete before a new one is
announced. Packets do not wait for a whole request: each update is applied between two packets, and reads run while
packets pass, since packets change no entry. So each count is that of the moment at which it was read, as on any switch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from p4.v1 import p4runtime_pb2
from p4.v1.p4runtime_pb2 import GetForwardingPipelineConfigRequest as GetConfig
from p4.v1.p4runtime_pb2 import SetForwardingPipelineConfigRequest as SetConfig

from soft_switch.backend import Backend
from soft_switch.p4runtime import entities, packet_io
from soft_switch.p4runtime.client_stream import ClientStream
from soft_switch.p4runtime.loaded_program import LoadedProgram, load_program
from soft_switch.p4runtime.notifications import Notifications
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


class ControlledSwitch(Protocol):
    """Interface that the server needs of a switch; :class:`soft_switch.switch.Switch` is one."""

    pipeline: Pipeline | None
    cpu_port: int | None
    on_packet_in: Callable[[bytes], None] | None
    lock: threading.RLock

    @property
    def port_rates(self) -> Mapping[int, int]:
        """Bits per second of each port, by number."""

    def install(self, pipeline: Pipeline) -> None:
        """Run this pipeline from the next packet on."""

    def packet_out(self, data: bytes) -> None:
        """Process a packet as if it had arrived at the CPU port."""


class Device:
    """A switch under P4Runtime.

    Attributes:
        on_waiting: called, from any thread, when the next call of :meth:`send_due` may be due earlier than it said.
    """

    def __init__(
        self,
        switch: ControlledSwitch,
        device_id: int,
        clock: Callable[[], int] = time.monotonic_ns,
        epoch_clock: Callable[[], int] = time.time_ns,
        backend: Backend = "auto",
    ) -> None:
        """Create a device; ``clock``: that of the packets, ns from any origin; ``epoch_clock``: ns since 1970."""
        self.switch = switch
        self.device_id = device_id
        self.on_waiting: Callable[[], None] = lambda: None
        self._clock = clock
        self._backend = backend
        # Acquired before the switch's lock where both are, and held to change what follows.
        self._turn = threading.RLock()
        self._sessions = Sessions(device_id)
        self._notifications = Notifications(self._sessions, switch.lock, clock, epoch_clock, lambda: self.on_waiting())
        # Reads and writes go to ``_current``, which differs from ``_running`` between VERIFY_AND_SAVE and COMMIT.
        self._current: LoadedProgram | None = None
        switch.on_packet_in = self._notifications.packet_in

    @property
    def _running(self) -> LoadedProgram | None:
        return self._notifications.program

    def port_rates(self) -> Mapping[int, int]:
        """Return the rate of each port in bits per second."""
        return self.switch.port_rates

    # The checks that the specification demands for every request, in its order.

    def check_device(self, device_id: int) -> None:
        """Check that a request is for this device.

        Raises:
            RequestError: NOT_FOUND otherwise.
        """
        if device_id != self.device_id:
            raise not_found(f"there is no device with id {device_id}; this server serves device {self.device_id}")

    def _check_primary(self, request: p4runtime_pb2.WriteRequest | SetConfig) -> None:
        """Raise NOT_FOUND if the role does not exist, and PERMISSION_DENIED if the client is not its primary."""
        role = request.role
        if request.role_id:
            raise not_found("role_id belongs to P4Runtime before 1.4; name the role in `role`")
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
        """Admit a stream.

        Raises:
            RequestError: RESOURCE_EXHAUSTED if there are MAX_STREAMS already.
        """
        with self._turn, self.switch.lock:
            return self._sessions.open()

    def close_stream(self, stream: ClientStream) -> None:
        """Remove the stream of a client. If it was primary, there is none until a client has an id at least as high."""
        with self._turn, self.switch.lock:
            self._sessions.close(stream)

    def stream_request(self, stream: ClientStream, request: p4runtime_pb2.StreamMessageRequest) -> None:
        """Handle one message of a client's stream.

        Raises:
            RequestError: end the stream with this status.
        """
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
            error = unimplemented("the stream takes only arbitration, packet and digest_ack messages")
            response = _stream_error(error)
            response.error.other.SetInParent()
            stream.offer(response)

    def _role_of_primary(self, stream: ClientStream, what: str) -> str:
        """Return the role of which the client is primary, or raise PERMISSION_DENIED for ``what`` it wants to do."""
        role = self._sessions.role_as_primary(stream)
        if role is None:
            raise denied(f"only the primary can {what}")
        return role

    # Packet-outs and acknowledgements.

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

    def send_due(self) -> int | None:
        """Send digests and idle timeouts that are due; return nanoseconds until the next, None if none waits."""
        return self._notifications.send_due()

    # Entities.

    def write(self, request: p4runtime_pb2.WriteRequest) -> list[RequestError | None]:
        """Carry out a batch; return one result per update, None where it succeeded.

        Raises:
            RequestError: the request as a whole is refused.
        """
        self.check_device(request.device_id)
        with self._turn:
            self._check_primary(request)
            program = self._program()
            if request.atomicity not in p4runtime_pb2.WriteRequest.Atomicity.values():
                raise invalid(f"atomicity {request.atomicity} is unknown; leave it unset, or see the specification")
            # ROLLBACK_ON_ERROR and DATAPLANE_ATOMIC: writes that are both serve for either.
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
        """Return what the requests select, in responses to be sent, and one result per request."""
        self.check_device(request.device_id)
        with self._turn:
            return entities.read_batch(self._program(), request.entities, request.role)

    # Pipeline config.

    def set_config(self, request: SetConfig) -> None:
        """Verify, save or commit a pipeline config.

        Raises:
            RequestError: the request is refused, and the pipeline that runs is unchanged.
        """
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
            raise invalid("the request has no config")
        # Compiling takes a while; packets do not wait for it.
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
        """Run a program without a client's request, as when a switch starts with one; return its pipeline."""
        program = load_program(config, self._clock, self._backend)
        with self._turn:
            self._current = program
            self._run(program)
        return program.pipeline

    def _commit_saved(self, request: SetConfig) -> None:
        if request.HasField("config"):
            raise invalid("COMMIT runs the saved config; leave `config` unset")
        with self._turn:
            self._check_primary(request)
            if self._current is None or self._current is self._running:
                raise not_found("no config is saved; use VERIFY_AND_SAVE first")
            self._run(self._current)

    def _run(self, program: LoadedProgram) -> None:
        program.pipeline.on_digest = self._notifications.digest
        with self.switch.lock:
            self.switch.install(program.pipeline)
            self._notifications.program = program
            program.idle.start(self._clock())
            self.on_waiting()

    def get_config(self, request: GetConfig) -> p4runtime_pb2.GetForwardingPipelineConfigResponse:
        """Return the config that reads and writes refer to; ``config`` is unset if there is none."""
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
