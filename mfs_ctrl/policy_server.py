"""The policy in force over plain HTTP and JSON, for host agents: ``GET /policy``, with an entity tag.

``PolicyServer.publish`` is an ``on_policy`` callback of the controller. Nothing served is secret, and clients can
change nothing. Bind the server to an address of the management network.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from host_agent.protocol.policy_document import PolicyDocument, etag
from mfs_ctrl.controller import OnPolicy
from mfs_ctrl.errors import ControlError
from mfs_ctrl.policy.policy import Policy

_LOG = logging.getLogger(__name__)

PATH = "/policy"
IDLE_S = 10
"""Seconds after which a silent client is disconnected."""


class PolicyServerError(ControlError):
    """The policy cannot be served at the address."""


class PolicyServer:
    """HTTP server of the last published policy; answers 503 before the first."""

    def __init__(self, address: str) -> None:
        """Listen at ``address``, HOST:PORT; port 0 takes any free port.

        Raises:
            PolicyServerError: there is no such address, or it is in use.
        """
        host, _, port = address.rpartition(":")
        self._document: tuple[str, str] | None = None
        try:
            self._server = ThreadingHTTPServer((host.strip("[]"), int(port)), self._handler())
        except (OSError, OverflowError, ValueError) as error:
            raise PolicyServerError(f"cannot serve the policy at {address!r} (HOST:PORT): {error}") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="policy-server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Base URL of the server."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def publish(self, policy: Policy, biases: Mapping[int, int]) -> None:
        """Serve ``policy`` and the bias code of each port until the next call."""
        text = PolicyDocument(policy.name, policy.rules, dict(biases)).to_json()
        self._document = (text, etag(text))

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = IDLE_S

            def do_GET(self) -> None:
                document = server._document
                if self.path != PATH:
                    self.send_error(HTTPStatus.NOT_FOUND, f"only {PATH} exists")
                elif document is None:
                    self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "no policy is in force yet")
                elif self.headers.get("If-None-Match") == document[1]:
                    self.send_response(HTTPStatus.NOT_MODIFIED)
                    self.send_header("ETag", document[1])
                    self.end_headers()
                else:
                    self._send(*document)

            def _send(self, text: str, tag: str) -> None:
                body = text.encode()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", tag)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: agents ask every second."""

        return Handler


@contextlib.contextmanager
def serving(address: str | None) -> Iterator[OnPolicy | None]:
    """Serve at ``address`` within the block; yield the function that publishes, or None without an address.

    Raises:
        PolicyServerError: as for :class:`PolicyServer`.
    """
    if address is None:
        yield None
        return
    with PolicyServer(address) as server:
        _LOG.info("serving the policy at %s%s", server.url, PATH)
        yield server.publish
