"""The P4Runtime server: listening, TLS, and the thread that sends notifications on time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format
from p4.v1 import p4runtime_pb2, p4runtime_pb2_grpc

from soft_switch.backend import Backend
from soft_switch.errors import SwitchError
from soft_switch.p4runtime.device import ControlledSwitch, Device
from soft_switch.p4runtime.servicer import P4RuntimeService
from soft_switch.p4runtime.sessions import MAX_STREAMS
from soft_switch.p4runtime.virtual_timer import VirtualTimer
from soft_switch.pipeline import Pipeline
from soft_switch.sim.events import VirtualClock

_LOG = logging.getLogger(__name__)

# Every stream occupies a thread for its whole life; the others serve short calls.
WORKERS = MAX_STREAMS + 16
LARGEST_MESSAGE_BYTES = 128 * 1024 * 1024


class ServerError(SwitchError):
    """The server cannot start: its address is in use or malformed, or a file (TLS or program) is unreadable."""


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM files: certificate chain and key of the server and, to require client certificates, their CA.

    Files that change are read again, for connections to come. While they do not fit together, the former ones stay.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials for gRPC.

        Raises:
            ServerError: a file cannot be read.
        """
        held = self._content()

        def changed() -> grpc.ServerCertificateConfiguration | None:
            """Return new files for a handshake; None for those of before."""
            nonlocal held
            try:
                content = self._content()
            except ServerError as error:
                _LOG.warning("%s; the former one stays", error)
                return None
            if content == held:
                return None
            held = content
            _LOG.info("TLS files read again: %s", self.certificate)
            return _configuration(content)

        # gRPC takes None (its documentation), its types do not say so.
        fetch: Any = changed
        return grpc.dynamic_ssl_server_credentials(_configuration(held), fetch, self.client_ca is not None)

    def _content(self) -> tuple[bytes, bytes, bytes | None]:
        """Return key, certificate and CA."""
        client_ca = None if self.client_ca is None else _read(self.client_ca, "CA certificate")
        return _read(self.key, "TLS key"), _read(self.certificate, "TLS certificate"), client_ca


def _configuration(content: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
    key, certificate, client_ca = content
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


class P4RuntimeServer:
    """P4Runtime server of a switch.

    Attributes:
        device: what clients control.
        address: where the server listens, HOST:PORT.
        port: the TCP port, also if the address asked for port 0.
    """

    def __init__(
        self,
        switch: ControlledSwitch,
        device_id: int = 1,
        address: str = "127.0.0.1:0",
        tls: TLS | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        epoch_clock: Callable[[], int] = time.time_ns,
        virtual_clock: VirtualClock | None = None,
        backend: Backend = "auto",
    ) -> None:
        """Listen at ``address``; port 0 takes a free one.

        Args:
            switch: the switch to serve.
            device_id: its number for clients.
            address: HOST:PORT.
            tls: files for TLS; without them, connections are not encrypted.
            clock: the clock of the packets, in ns from any origin, for digest and idle timeouts.
            epoch_clock: nanoseconds since 1970, for time stamps.
            virtual_clock: replaces both clocks; notifications are then sent while it runs.
            backend: how programs run.

        Raises:
            ServerError: it cannot listen.
        """
        if virtual_clock is not None:
            clock = epoch_clock = lambda: virtual_clock.now_ns
        # The specification forbids 0, but many clients send it: it is simple_switch_grpc's default.
        if not 0 <= device_id < 1 << 64:
            raise ServerError(f"device id {device_id} is not in 0..2^64-1")
        self.device = Device(switch, device_id, clock, epoch_clock, backend)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(WORKERS, thread_name_prefix="p4runtime"),
            # Without so_reuseport 0, two servers could share a port unnoticed.
            options=(("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES), ("grpc.so_reuseport", 0)),
        )
        p4runtime_pb2_grpc.add_P4RuntimeServicer_to_server(P4RuntimeService(self.device), self._server)
        self.port = self._listen(address, tls)
        self.address = f"{address.rpartition(':')[0]}:{self.port}"
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._timer: threading.Thread | None = None
        if virtual_clock is not None:
            VirtualTimer(self.device, virtual_clock)
        else:
            self.device.on_waiting = self._wake.set
            self._timer = threading.Thread(target=self._send_due, name="p4runtime-timer", daemon=True)

    def _listen(self, address: str, tls: TLS | None) -> int:
        """Listen at the address and return the port. (gRPC would take a port above 65535 modulo 65536.)"""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ServerError(f"{address!r} is not an address to listen on; write HOST:PORT, e.g. 127.0.0.1:9559")
        try:
            if tls is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, tls.credentials()))
        except RuntimeError as error:
            raise ServerError(
                f"cannot listen on {address}; is the port free, and the host an address of this machine?"
            ) from error

    def start(self) -> None:
        """Start to serve."""
        self._server.start()
        if self._timer is not None:
            self._timer.start()

    def stop(self, grace: float | None = None) -> None:
        """Stop serving; calls in progress have ``grace`` seconds to end."""
        self._stopped.set()
        self._wake.set()
        self._server.stop(grace).wait()
        if self._timer is not None and self._timer.is_alive():
            self._timer.join()

    def wait(self) -> None:
        """Wait until the server is stopped."""
        self._server.wait_for_termination()

    def load(self, device_config: bytes, p4info_text: str) -> Pipeline:
        """Run a program, given its bmv2 JSON and its P4Info in text format, as SetForwardingPipelineConfig would.

        Returns:
            The pipeline that runs it.

        Raises:
            SwitchError: the program cannot run, or the two do not belong together.
        """
        config = p4runtime_pb2.ForwardingPipelineConfig(p4_device_config=device_config)
        try:
            # Later versions of the P4Info have fields that this server does not need.
            text_format.Parse(p4info_text, config.p4info, allow_unknown_field=True)
        except text_format.ParseError as error:
            raise ServerError(f"the P4Info is not in protobuf text format: {error}") from error
        return self.device.load(config)

    def _send_due(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            due_in_ns = self.device.send_due()
            # Idle timeouts may be longer than a thread can wait.
            self._wake.wait(None if due_in_ns is None else min(due_in_ns / 1e9, 3600))


def serve(
    switch: ControlledSwitch,
    *,
    address: str,
    device_id: int = 1,
    device_config: Path | None = None,
    p4info: Path | None = None,
    tls: TLS | None = None,
    backend: Backend = "auto",
) -> P4RuntimeServer:
    """Start to serve ``switch``, empty or with a program loaded from its two files, and log where.

    The server runs until its ``stop``; ``wait`` blocks until then.

    Raises:
        SwitchError: it cannot start; the message says what to change.
    """
    if (device_config is None) != (p4info is None):
        raise ServerError("a program needs both files: the bmv2 JSON and its P4Info")
    server = P4RuntimeServer(switch, device_id, address, tls, backend=backend)
    program = "no program yet"
    if device_config is not None and p4info is not None:
        try:
            pipeline = server.load(
                _read(device_config, "device config"), _read(p4info, "P4Info").decode("utf-8", "replace")
            )
        except SwitchError:
            server.stop()
            raise
        program = f"program {device_config} as {pipeline.runs_as}"
    server.start()
    security = "TLS" if tls is not None else "no TLS"
    _LOG.info("P4Runtime listens on %s (%s), device id %d, %s", server.address, security, device_id, program)
    return server


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServerError(f"cannot read the {what} {path}: {error.strerror or error}") from error
