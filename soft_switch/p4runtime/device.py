"""The device that P4Runtime clients see: its program, who may write to it, and its notifications.

Requests take turns, so reads never see half a batch, and writes of a previous primary are over before a new one is
announced. Packets do not wait for a whole request: each update is applied between two packets, and reads go on while
packets pass, since these change no entry. So counts are those of the moments at which each was read, as on any switch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from google.rpc import status_pb2
from p4.v1 import p4runtime_pb2
from p4.v1.p4runtime_pb2 import GetForwardingPipelineConfigRequest as GetConfig
from p4.v1.p4runtime_pb2 import SetForwardingPipelineConfigRequest as SetConfig

from soft_switch.p4runtime import entities, packet_io
from soft_switch.p4runtime.arbitration import Arbiter, Notice
from soft_switch.p4runtime.client_stream import ClientStream
from soft_switch.p4runtime.loaded_program import LoadedProgram, load_program
from soft_switch.p4runtime.status import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    NOT_FOUND,
    OK,
    RESOURCE_EXHAUSTED,
    RequestError,
    as_request_error,
    denied,
    invalid,
    not_found,
    unimplemented,
)
from soft_switch.pipeline import Pipeline

log = logging.getLogger(__name__)

MAX_STREAMS = 32
STANDING = {OK: "you are primary", ALREADY_EXISTS: "there is another primary", NOT_FOUND: "there is no primary"}


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
    """One switch under P4Runtime. `clock` gives nanoseconds from any origin, `epoch_clock` since 1970."""

    def __init__(
        self,
        switch: ControlledSwitch,
        device_id: int,
        clock: Callable[[], int] = time.monotonic_ns,
        epoch_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.switch = switch
        self.device_id = device_id
        self.digests_waiting = threading.Event()
        self._clock = clock
        self._epoch_clock = epoch_clock
        # Taken before the switch's lock where both are, and held by all who change what follows.
        self._turn = threading.RLock()
        self._arbiter: Arbiter[ClientStream] = Arbiter()
        self._streams: set[ClientStream] = set()
        # Reads and writes go to `_current`; it is not `_running` between VERIFY_AND_SAVE and COMMIT.
        self._running: LoadedProgram | None = None
        self._current: LoadedProgram | None = None
        switch.on_packet_in = self._packet_in

    # Checks that the specification asks of every request, in its order.

    def check_device(self, device_id: int) -> None:
        """NOT_FOUND unless this is the device that is meant."""
        if device_id != self.device_id:
            raise not_found(f"there is no device with id {device_id}; this server serves device {self.device_id}")

    def check_role(self, role: str, role_id: int = 0) -> None:
        """NOT_FOUND for any role but the default one, which is unnamed."""
        if role or role_id:
            raise not_found(f"there is no role {role or role_id!r}; this switch has the default role only (unset)")

    def _check_primary(self, request: p4runtime_pb2.WriteRequest | SetConfig) -> None:
        if not self._arbiter.is_primary(_election_id(request)):
            raise denied(
                f"election id {_show(_election_id(request))} is not that of the primary; "
                "become primary on a StreamChannel first"
            )

    def _program(self) -> LoadedProgram:
        if self._current is None:
            raise RequestError(
                FAILED_PRECONDITION, "no pipeline config has been set; use SetForwardingPipelineConfig first"
            )
        return self._current

    # Streams and arbitration.

    def open_stream(self) -> ClientStream:
        """Admit a stream; RESOURCE_EXHAUSTED beyond MAX_STREAMS of them."""
        with self._turn, self.switch.lock:
            if len(self._streams) >= MAX_STREAMS:
                raise RequestError(RESOURCE_EXHAUSTED, f"{MAX_STREAMS} streams are open, which is the most served")
            stream = ClientStream()
            self._streams.add(stream)
            return stream

    def close_stream(self, stream: ClientStream) -> None:
        """The client is gone; if it was primary, there is none until a client claims it with an id as high."""
        with self._turn, self.switch.lock:
            self._streams.discard(stream)
            self._announce(self._arbiter.leave(stream))

    def stream_request(self, stream: ClientStream, request: p4runtime_pb2.StreamMessageRequest) -> None:
        """Handle one message of a client's stream. RequestError means that the stream is to be ended with it."""
        kind = request.WhichOneof("update")
        if kind == "arbitration":
            self._arbitrate(stream, request.arbitration)
        elif kind == "packet":
            self._packet_out(stream, request.packet)
        elif kind == "digest_ack":
            self._digest_ack(stream, request.digest_ack)
        else:
            error = unimplemented("the stream takes arbitration, packet and digest_ack messages only")
            response = _stream_error(error)
            response.error.other.SetInParent()
            stream.send(response)

    def _arbitrate(self, stream: ClientStream, message: p4runtime_pb2.MasterArbitrationUpdate) -> None:
        with self._turn, self.switch.lock:
            if stream in self._arbiter.clients and message.device_id != self.device_id:
                raise RequestError(FAILED_PRECONDITION, "a stream cannot change its device; open another stream")
            self.check_device(message.device_id)
            if message.role.name or message.role.id or message.role.HasField("config"):
                if stream in self._arbiter.clients:
                    raise RequestError(FAILED_PRECONDITION, "a stream cannot change its role; open another stream")
                raise unimplemented("roles are not supported: leave `role` unset for the default role")
            before = self._arbiter.primary
            self._announce(self._arbiter.update(stream, _election_id(message)))
            if self._running is not None and self._arbiter.primary not in (None, before):
                self._running.digests.forget_sent()

    def _announce(self, notices: Sequence[Notice[ClientStream]]) -> None:
        for notice in notices:
            response = p4runtime_pb2.StreamMessageResponse()
            update = response.arbitration
            update.device_id = self.device_id
            if notice.election_id is not None:
                update.election_id.high = notice.election_id >> 64
                update.election_id.low = notice.election_id & ((1 << 64) - 1)
            update.status.CopyFrom(status_pb2.Status(code=notice.code, message=STANDING[notice.code]))
            notice.client.send(response)

    # Packets and digests.

    def _packet_out(self, stream: ClientStream, packet: p4runtime_pb2.PacketOut) -> None:
        try:
            with self.switch.lock:
                if stream != self._arbiter.primary:
                    raise denied("only the primary can send packets out")
                if self._running is None:
                    raise RequestError(FAILED_PRECONDITION, "no pipeline config has been committed")
                if self.switch.cpu_port is None:
                    raise RequestError(FAILED_PRECONDITION, "this switch has no CPU port, so no packet-out")
                self.switch.packet_out(packet_io.pack_packet_out(self._running.info.packet_out, packet))
        except Exception as error:
            response = _stream_error(as_request_error(error))
            response.error.packet_out.packet_out.CopyFrom(packet)
            stream.send(response)

    def _packet_in(self, data: bytes) -> None:
        with self.switch.lock:
            primary = self._arbiter.primary
            if primary is None or self._running is None:
                return
            try:
                packet = packet_io.unpack_packet_in(self._running.info.packet_in, data)
            except packet_io.ShortPacketError as error:
                log.warning("dropped: %s", error)
                return
            primary.offer(p4runtime_pb2.StreamMessageResponse(packet=packet))

    def _digest_ack(self, stream: ClientStream, ack: p4runtime_pb2.DigestListAck) -> None:
        try:
            with self.switch.lock:
                if stream != self._arbiter.primary:
                    raise denied("only the primary can acknowledge digests")
                if self._running is None:
                    raise RequestError(FAILED_PRECONDITION, "no pipeline config has been committed")
                self._running.digests.acknowledge(ack)
        except RequestError as error:
            response = _stream_error(error)
            response.error.digest_list_ack.digest_list_ack.CopyFrom(ack)
            stream.send(response)

    def _digest(self, name: str, values: tuple[int, ...]) -> None:
        """A digest message of the data plane; it is sent from here when that needs no waiting."""
        with self.switch.lock:
            if self._running is None:
                return
            if self._running.digests.offer(name, values, self._clock()):
                self.send_due_digests()
            else:
                self.digests_waiting.set()

    def send_due_digests(self) -> int | None:
        """Send the lists whose time has come; nanoseconds until the next one, None when nothing waits."""
        with self.switch.lock:
            if self._running is None:
                return None
            now_ns = self._clock()
            book = self._running.digests
            primary = self._arbiter.primary
            for message in book.take_due(now_ns, self._epoch_clock()):
                if primary is not None:
                    primary.offer(p4runtime_pb2.StreamMessageResponse(digest=message))
            if primary is None:
                book.forget_sent()
            due_ns = book.next_due_ns()
            return None if due_ns is None else max(0, due_ns - now_ns)

    # Entities.

    def write(self, request: p4runtime_pb2.WriteRequest) -> list[RequestError | None]:
        """Carry out a batch; one result per update. RequestError when the request as a whole is refused."""
        self.check_device(request.device_id)
        self.check_role(request.role, request.role_id)
        with self._turn:
            self._check_primary(request)
            program = self._program()
            if request.atomicity != p4runtime_pb2.WriteRequest.CONTINUE_ON_ERROR:
                name = p4runtime_pb2.WriteRequest.Atomicity.Name(request.atomicity)
                raise unimplemented(f"atomicity {name} is not supported; use CONTINUE_ON_ERROR (the default)")
            return entities.write_batch(program, request.updates, self.switch.lock)

    def read(
        self, request: p4runtime_pb2.ReadRequest
    ) -> tuple[list[p4runtime_pb2.ReadResponse], list[RequestError | None]]:
        """What the requests select, in responses to be sent; and one result per request."""
        self.check_device(request.device_id)
        self.check_role(request.role)
        with self._turn:
            return entities.read_batch(self._program(), request.entities)

    # Pipeline config.

    def set_config(self, request: SetConfig) -> None:
        """Verify, save or commit a pipeline config; on any error the pipeline that runs is untouched."""
        self.check_device(request.device_id)
        self.check_role(request.role, request.role_id)
        with self._turn:
            self._check_primary(request)
        if request.action == SetConfig.COMMIT:
            self._commit_saved(request)
            return
        if request.action == SetConfig.RECONCILE_AND_COMMIT:
            raise unimplemented(
                "RECONCILE_AND_COMMIT is not supported; use VERIFY_AND_COMMIT and write the entries anew"
            )
        if request.action not in (SetConfig.VERIFY, SetConfig.VERIFY_AND_SAVE, SetConfig.VERIFY_AND_COMMIT):
            raise invalid("the action is not set; it is VERIFY, VERIFY_AND_SAVE, VERIFY_AND_COMMIT or COMMIT")
        if not request.HasField("config"):
            raise invalid("no config is given")
        # Compiling takes a while, and packets need not wait for it.
        program = load_program(request.config)
        if request.action == SetConfig.VERIFY:
            return
        with self._turn:
            self._check_primary(request)
            self._current = program
            if request.action == SetConfig.VERIFY_AND_COMMIT:
                self._run(program)

    def load(self, config: p4runtime_pb2.ForwardingPipelineConfig) -> Pipeline:
        """Run a program without a client's request, as when a switch starts with one; the pipeline that runs it."""
        program = load_program(config)
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


def _election_id(
    message: p4runtime_pb2.WriteRequest | SetConfig | p4runtime_pb2.MasterArbitrationUpdate,
) -> int | None:
    if not message.HasField("election_id"):
        return None
    return int(message.election_id.high) << 64 | int(message.election_id.low)


def _show(election_id: int | None) -> str:
    return "(unset)" if election_id is None else str(election_id)


def _stream_error(error: RequestError) -> p4runtime_pb2.StreamMessageResponse:
    response = p4runtime_pb2.StreamMessageResponse()
    response.error.canonical_code = error.code
    response.error.message = error.message
    response.error.space = "soft_switch"
    return response
