"""A channel to a switch and its open stream: what the streams of P4Runtime and of BF Runtime have in common."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from typing import Any

import grpc

from mfs_ctrl.errors import SessionError, SwitchUnreachableError
from mfs_ctrl.p4rt.channel import TlsFiles, await_ready, open_channel


class Duplex(ABC):
    """A channel to the service at ``address`` and the open stream, which ends when either side leaves.

    Args:
        absent: what to say if nothing answers at the address, and
        server: the program to look at then.

    Attributes:
        channel: the channel, for other calls.
        error: why the stream ended, or None; set by the receiving thread.

    Raises:
        SwitchUnreachableError: nothing answers at the address within ``timeout_s``.
        SessionError: a TLS file cannot be read.
    """

    def __init__(self, address: str, timeout_s: float, tls: TlsFiles | None, absent: str, server: str) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.error: SessionError | None = None
        self._answered = threading.Event()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.channel = open_channel(address, tls)
        await_ready(self.channel, address, timeout_s, absent, server)
        self._stream = self._method()(iter(self._requests.get, None))
        self._receiver = threading.Thread(target=self._receive, name="switch-stream", daemon=True)
        self._receiver.start()

    def send(self, request: Any) -> None:
        """Send ``request``, without waiting for an answer."""
        self._requests.put(request)

    def ask(self, request: Any, what: str) -> None:
        """Send ``request``, called ``what``, and wait until it is answered; a refusal or silence closes the channel.

        Raises:
            SwitchUnreachableError: the switch does not answer.
            SessionError: it has ended the session.
        """
        self._answered.clear()
        self.send(request)
        answered = self.error is None and self._answered.wait(self.timeout_s)
        if self.error is not None or not answered:
            error = self.error or SwitchUnreachableError(
                f"the switch at {self.address} does not answer {what} within {self.timeout_s:g} s"
            )
            self.close()
            raise error

    def close(self) -> None:
        """End the stream in an orderly way; a switch that does not answer delays this by 2 s at most."""
        self._requests.put(None)
        self._receiver.join(1.0)
        self._stream.cancel()
        self._receiver.join(1.0)
        self.channel.close()

    @abstractmethod
    def _method(self) -> Any:
        """Return the method of the service that opens the stream."""

    @abstractmethod
    def _take(self, message: Any) -> bool:
        """Take a message of the switch; return whether it answers what was asked. It may set :attr:`error`."""

    def _hint(self) -> str:
        """Return what to add when the switch refuses the stream."""
        return ""

    def _receive(self) -> None:
        try:
            for message in self._stream:
                if self._take(message):
                    self._answered.set()
            self.error = self.error or SwitchUnreachableError(f"the switch at {self.address} ended the session")
        except grpc.RpcError as error:
            self.error = self.error or self._ended(error)
        finally:
            # Wake up a waiting caller: no answer will come.
            self._answered.set()

    def _ended(self, error: Any) -> SessionError:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return SwitchUnreachableError(f"the connection to the switch at {self.address} was lost")
        return SessionError(
            f"the switch at {self.address} refuses the session: {error.code().name}, {error.details()}{self._hint()}"
        )
