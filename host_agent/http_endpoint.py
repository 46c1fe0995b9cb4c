"""A small HTTP server of documents that clients can only read: policy, metrics, health. Standard library only.

Slow and vanishing clients do not harm it: each has a thread, their number is bounded, and a request takes 10 s at most.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from host_agent.file_times import changed
from host_agent.protocol.errors import MfsError

_LOG = logging.getLogger(__name__)

CONNECTION_S = 10
"""Seconds after which a client is disconnected: a request takes milliseconds."""
CONNECTIONS = 512
"""Clients at a time; each has a thread. One more takes the place of the one that has been connected longest."""
LOOPBACK = "127.0.0.1"


class EndpointError(MfsError):
    """Nothing can be served at the address, or a TLS file cannot be used."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; its body is left out for HEAD and with status 304."""

    body: str = ""
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Message], Reply]
"""Maps the headers of a request to its answer; called from several threads."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files: certificate chain and key of the server and, to require client certificates, their authorities.

    They are read again when they change.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context for the server's side.

        Raises:
            EndpointError: a file cannot be read or is not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:
            raise EndpointError(f"cannot use the TLS files {self.certificate} and {self.key}: {error}") from None
        return context

    def changed(self) -> tuple[int, ...]:
        """Return when the files were changed."""
        return changed(self.certificate, self.key, self.client_ca)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to serve HTTP: HOST:PORT, or PORT alone for the loopback interface; without ``tls`` in plain."""

    address: str
    tls: ServerTls | None = None


class HttpEndpoint:
    """Server of ``routes``, by path; more may be added while it runs."""

    def __init__(self, address: str, routes: Mapping[str, Route], tls: ServerTls | None = None) -> None:
        """Listen at ``address``: HOST:PORT, or PORT alone for the loopback interface; port 0 takes any free port.

        Raises:
            EndpointError: there is no such address, it is in use, or a TLS file cannot be used.
        """
        self.routes = dict(routes)
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server(host.strip("[]") or LOOPBACK, int(port), _handler(self.routes), tls)
        except (OSError, OverflowError, ValueError) as error:
            raise EndpointError(f"cannot serve at {address!r} (HOST:PORT): {error}") from None
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Base URL of the server."""
        host, port = map(str, self._server.server_address[:2])
        return f"{self._scheme}://[{host}]:{port}" if ":" in host else f"{self._scheme}://{host}:{port}"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def health_routes(unready: Callable[[], str]) -> dict[str, Route]:
    """Return ``/healthz``, which says that the process answers, and ``/readyz``, which says whether it does its work.

    ``unready`` returns why it does not; empty if it does.
    """

    def ready(_headers: Message) -> Reply:
        why = unready()
        return Reply(f"{why}\n", HTTPStatus.SERVICE_UNAVAILABLE) if why else Reply("ok\n")

    return {"/healthz": lambda _headers: Reply("ok\n"), "/readyz": ready}


def _handler(routes: Mapping[str, Route]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CONNECTION_S

        def do_GET(self) -> None:
            route = routes.get(self.path.partition("?")[0])
            if route is None:
                self.send_error(HTTPStatus.NOT_FOUND, f"there are {', '.join(routes)}")
                return
            reply = route(self.headers)
            body = reply.body.encode()
            self.send_response(reply.status)
            if reply.status != HTTPStatus.NOT_MODIFIED:
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(body)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD" and reply.status != HTTPStatus.NOT_MODIFIED:
                self.wfile.write(body)

        do_HEAD = do_GET

        def _refuse(self) -> None:
            self.send_response(HTTPStatus.METHOD_NOT_ALLOWED)
            self.send_header("Allow", "GET, HEAD")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_PATCH = do_DELETE = _refuse

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: agents ask every second."""

    return Handler


class _Server(ThreadingHTTPServer):
    """HTTP server that slow and vanishing clients do not harm."""

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler], tls: ServerTls | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._since: dict[socket.socket, float] = {}
        self._tls, self._context = tls, None if tls is None else tls.context()
        self._changed = None if tls is None else tls.changed()
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread of its own; of too many clients, the one that has taken longest goes.

        A request takes milliseconds, so silent clients lose their places to each other and not to those that ask.
        """
        if len(self._since) >= CONNECTIONS:
            for longest in list(self._since)[:1]:
                self._since.pop(longest, None)
                _disconnect(longest)
        if self._context is not None:
            # The handshake is for the client's thread.
            request = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, then answer."""
        if self._context is not None:
            request.settimeout(CONNECTION_S)
            request.do_handshake()
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Disconnect a client."""
        self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Disconnect clients that take too long, and read new certificates; called twice a second."""
        oldest = time.monotonic() - CONNECTION_S
        for request, since in list(self._since.items()):
            if since < oldest:
                _disconnect(request)
        if self._tls is not None and (now := self._tls.changed()) != self._changed:
            self._changed = now
            try:
                # Another context, since one that reads more authorities goes on trusting the former ones.
                self._context = self._tls.context()
                _LOG.info("certificate %s read again", self._tls.certificate)
            except EndpointError as error:
                # Certificate and key may be replaced one after the other.
                _LOG.warning("certificate %s cannot be read again, the former stays: %s", self._tls.certificate, error)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Ignore clients that hang up: they ask again."""
        _LOG.debug("a client at %s hung up or failed", client_address, exc_info=True)


def _disconnect(request: socket.socket) -> None:
    """End a client's connection, so that its thread ends; of TLS only what is below, which that thread uses too."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(request, socket.SHUT_RDWR)
