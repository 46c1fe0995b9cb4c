"""gRPC channels to a switch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from mfs_ctrl.errors import SessionError

MESSAGE_BYTES_MAX = 256 << 20
"""Largest answer that is accepted. gRPC's default of 4 MiB is too small for BF Runtime's description of its tables."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a TLS connection.

    Attributes:
        root_certificates: certificates that the switch's certificate is verified with; by default gRPC's own.
        certificate_chain: the client's certificate, where the switch asks for one.
        private_key: the key of ``certificate_chain``.
    """

    root_certificates: Path | None = None
    certificate_chain: Path | None = None
    private_key: Path | None = None


def open_channel(address: str, tls: TlsFiles | None = None) -> grpc.Channel:
    """A channel to ``address`` (host:port), in plain text without ``tls``. It connects when it is first used.

    Raises:
        SessionError: a TLS file cannot be read.
    """
    options = (("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),)
    if tls is None:
        return grpc.insecure_channel(address, options)
    try:
        root, chain, key = (
            None if path is None else path.read_bytes()
            for path in (tls.root_certificates, tls.certificate_chain, tls.private_key)
        )
    except OSError as error:
        raise SessionError(f"cannot read the TLS file {error.filename}: {error.strerror}") from None
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(root, key, chain), options)
