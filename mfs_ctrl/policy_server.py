"""The policy in force over plain HTTP and JSON, for host agents: ``GET /policy``, with an entity tag.

``PolicyServer.publish`` is an ``on_policy`` callback of the controller. Nothing served is secret, and clients can
change nothing. Bind the server to an address of the management network.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from host_agent.protocol.policy_document import PolicyDocument, etag
from mfs_ctrl.controller import OnPolicy
from mfs_ctrl.errors import ControlError
from mfs_ctrl.policy.policy import Policy

_LOG = logging.getLogger(__name__)

PATH = "/policy"
CONNECTION_S = 10
"""Seconds after which a client is disconnected: a request takes milliseconds."""
CONNECTIONS = 512
"""Clients at a time; each has a thread. Further ones are disconnected at once, and agents ask again a second later."""


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
            self._server = _Server(host.strip("[]"), int(port), self._handler())
        except (OSError, OverflowError, ValueError) as error:
            raise PolicyServerError(f"cannot serve the policy at {address!r} (HOST:PORT): {error}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="policy-server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Base URL of the server."""
        host, port = map(str, self._server.server_address[:2])
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

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
            timeout = CONNECTION_S

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

            do_HEAD = do_GET

            def _refuse(self) -> None:
                self.send_response(HTTPStatus.METHOD_NOT_ALLOWED)
                self.send_header("Allow", "GET, HEAD")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_PUT = do_PATCH = do_DELETE = _refuse

            def _send(self, text: str, tag: str) -> None:
                body = text.encode()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", tag)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: agents ask every second."""

        return Handler


class _Server(ThreadingHTTPServer):
    """HTTP server that slow and vanishing clients do not harm."""

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._since: dict[socket.socket, float] = {}
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread of its own, unless too many clients are connected."""
        if len(self._since) >= CONNECTIONS:
            self.shutdown_request(request)
            return
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Disconnect a client."""
        self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Disconnect clients that take too long; called twice a second."""
        oldest = time.monotonic() - CONNECTION_S
        for request, since in list(self._since.items()):
            if since < oldest:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Ignore clients that hang up: agents ask again."""
        _LOG.debug("a client at %s hung up or failed", client_address, exc_info=True)


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
