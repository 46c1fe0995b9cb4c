"""gRPC channels to a switch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from mfs_ctrl.errors import SessionError, SwitchUnreachableError

MESSAGE_BYTES_MAX = 256 << 20
"""Largest answer that is accepted. gRPC's default of 4 MiB is too small for BF Runtime's description of its tables."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a TLS connection.

    Attributes:
        ca: certificates of the authorities that sign certificates of switches; by default those of gRPC.
        certificate: the certificate chain of the client, if the switch requires one.
        key: the private key of ``certificate``.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def open_channel(address: str, tls: TlsFiles | None = None) -> grpc.Channel:
    """Return a channel to ``address`` (host:port), in plain text without ``tls``. It connects when it is first used.

    Raises:
        SessionError: a TLS file cannot be read.
    """
    options = (("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),)
    if tls is None:
        return grpc.insecure_channel(address, options)
    try:
        ca, certificate, key = (
            None if path is None else path.read_bytes() for path in (tls.ca, tls.certificate, tls.key)
        )
    except OSError as error:
        raise SessionError(f"cannot read the TLS file {error.filename}: {error.strerror}") from None
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options)


def await_ready(
    channel: grpc.Channel,
    address: str,
    timeout_s: float,
    absent: str = "no P4Runtime server answers",
    server: str = "the switch",
) -> None:
    """Wait until ``channel``, to ``address``, is connected; close it if that takes longer than ``timeout_s``.

    ``absent`` is what to say if nothing answers, and ``server`` the program to look at then.

    Raises:
        SwitchUnreachableError: nothing answers in time.
    """
    try:
        grpc.channel_ready_future(channel).result(timeout=timeout_s)
    except grpc.FutureTimeoutError:
        channel.close()
        raise SwitchUnreachableError(
            f"{absent} at {address} within {timeout_s:g} s; "
            f"check that {server} is running and that the address is right"
        ) from None
