"""The agent's process: attaches to an interface, serves its socket, follows the policy, restores the interface."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from host_agent.daemon.access import peer_of
from host_agent.daemon.gate import Gate, default_limit
from host_agent.daemon.holding import TICK_S, Holder, HoldOptions, Levels
from host_agent.daemon.hooks import Attached, attach, restore
from host_agent.daemon.host_tcp import time_stamps
from host_agent.daemon.kicks import Kicker
from host_agent.daemon.options import InterfaceOptions, ServiceOptions
from host_agent.daemon.presence import until_gone
from host_agent.daemon.registrar import Registrar
from host_agent.daemon.registrations import RENEW_S, Registrations
from host_agent.daemon.requests import Client, Requests
from host_agent.daemon.state import StateFile
from host_agent.ebpf.bpf import enable_statistics
from host_agent.ebpf.errors import PolicyError, SocketError
from host_agent.ebpf.holds import HoldTable
from host_agent.ebpf.policy import ANSWERS, PolicySource, PolicyWatch, saved_path
from host_agent.http_endpoint import HttpEndpoint, health_routes
from host_agent.metrics_route import PATH as METRICS
from host_agent.metrics_route import metrics_route
from host_agent.protocol.agent_header import AgentIdentity
from host_agent.protocol.errors import AgentError
from host_agent.protocol.flow_request import LINE_MAX
from host_agent.protocol.level import bias_code
from host_agent.protocol.policy_document import PolicyDocument
from host_agent.version import installed_version

if TYPE_CHECKING:
    from prometheus_client import Metric

LINE_S = 10.0
"""Longest time that a request takes to arrive."""
STATUS_S = 5.0
"""Longest wait of a request for metrics."""
_ENDING = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


class Service:
    """An attached interface, from the first client to the signal that ends the process."""

    def __init__(self, options: InterfaceOptions, service: ServiceOptions, attached: Attached) -> None:
        self._options = options
        self._service = service
        self._attached = attached
        self._bias = bias_code(attached.rate_bps)
        self._policy: dict[str, Any] = {"name": None, "from": None, "controller": "not asked yet"}
        self._levels = Levels(self._bias)
        self._holder = _holder(options, service, attached, self._levels)
        self._registrar = Registrar(options.interface, ordered=options.order)
        mac = self._registrar.mac.hex(":")
        self._source = PolicySource(
            service.policy_url,
            saved_path(service.state_directory, options.interface),
            service.policy_tls,
            AgentIdentity(mac, options.interface, attached.carrier, installed_version()),
        )
        self._registrations = Registrations(
            self._registrar.addresses, attached.table.current_layer, self._registrar.send, time.monotonic_ns
        )
        self._gate = Gate(service.gate_bytes or default_limit(attached.rate_bps), self._rank)
        self._requests = Requests(attached.table, self._status, self._registrations, self._gate, self._holder)
        self._started = time.monotonic()

    def first_policy(self) -> None:
        """Put the controller's policy into force, else the one on disk, else none yet."""
        try:
            document = self._source.fetch()
            assert document is not None
            self._apply(document, self._service.policy_url)
            return
        except PolicyError as error:
            self._policy["controller"] = str(error)
            _log.warning("%s; retrying every %g s", error, self._service.interval_s)
        saved = self._source.load()
        if saved is not None:
            self._apply(saved, "disk")
        elif not self._attached.taken_over:
            _log.warning("no policy yet: all packets have the level of untagged traffic")

    async def run(self, listener: socket.socket) -> None:
        """Serve clients of ``listener`` until SIGTERM or SIGINT.

        Raises:
            InterfaceError: the interface no longer exists.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in _ENDING:
            loop.add_signal_handler(number, ended.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        watch = PolicyWatch(
            self._source,
            self._service.interval_s,
            lambda news: _call_soon(loop, lambda: self._news(news)),
        )
        server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_MAX)
        unclaimed = loop.call_later(self._service.grace_s, self._close_unclaimed)
        watch.start()
        turns = asyncio.create_task(_turns(self._holder)) if self._holder is not None else None
        gone = asyncio.create_task(until_gone(self._options.interface))
        gone.add_done_callback(lambda _: ended.set())
        renewal = asyncio.create_task(_renew(self._registrations))
        endpoint = self._endpoint(loop)
        try:
            _log.info("serving %s", self._service.socket)
            await ended.wait()
            if gone.done():
                await gone
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            unclaimed.cancel()
            gone.cancel()
            watch.close()
            server.close()
            renewal.cancel()
            self._registrar.close()
            if endpoint is not None:
                # Not in this thread: a request in progress waits for this loop.
                await asyncio.to_thread(endpoint.close)
            if turns is not None:
                turns.cancel()
            if self._holder is not None:
                self._holder.lift()

    def _endpoint(self, loop: asyncio.AbstractEventLoop) -> HttpEndpoint | None:
        """Serve metrics and health, if asked for."""
        if self._service.metrics_listen is None:
            return None

        async def status() -> dict[str, Any]:
            return self._requests.answer(Client(os.getpid()), {"op": "status"})

        def collect() -> Iterator[Metric]:
            from host_agent.daemon.metrics import agent_metrics

            answer = asyncio.run_coroutine_threadsafe(status(), loop).result(STATUS_S)
            return agent_metrics(answer, installed_version())

        def unready() -> str:
            return "" if self._policy["name"] is not None else f"no policy yet: {self._policy['controller']}"

        routes = {METRICS: metrics_route(collect), **health_routes(unready)}
        endpoint = HttpEndpoint(self._service.metrics_listen, routes)
        _log.info("serving metrics at %s%s", endpoint.url, METRICS)
        return endpoint

    def _close_unclaimed(self) -> None:
        if count := self._requests.close_unclaimed():
            _log.info("closed %d flows whose clients did not come back", count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (pid, user), access = peer_of(writer.get_extra_info("socket")), self._requests.access
        if refused := access.connected(user):
            with contextlib.suppress(OSError):
                await _send(writer, {"ok": False, "error": refused})
            writer.close()
            return
        client = Client(pid, user)
        try:
            while True:
                try:
                    line = await _line(reader)
                except TimeoutError:
                    await _send(writer, {"ok": False, "error": f"a request takes {LINE_S:g} s at most to send"})
                    return
                except asyncio.LimitOverrunError:
                    answer: dict[str, Any] = {"ok": False, "error": f"a request has {LINE_MAX} bytes at most"}
                    await _send(writer, answer)
                    return
                await _send(writer, await self._answer(client, line))
        except (asyncio.IncompleteReadError, OSError):
            pass
        except asyncio.CancelledError:
            # The process ends. Python 3.11 logs a traceback for a cancelled handler.
            pass
        finally:
            self._requests.gone(client)
            access.disconnected(user)
            writer.close()

    async def _answer(self, client: Client, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            return {"ok": False, "error": f"not JSON: {error}"}
        answer = self._requests.answer(client, request)
        if answer.get("permitted") == [] and request.get("wait_us"):
            woken = asyncio.Event()
            client.wake = woken.set
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(woken.wait(), request["wait_us"] / 1e6)
            answer = self._requests.answer(client, request)
        return answer

    def _rank(self, flow: int) -> tuple[int, int]:
        """Return the level and the deadline of a flow, for the gate."""
        table = self._attached.table
        if flow in self._registrations:
            held = self._registrations.flow(flow)
            request, sent_bytes = held.request, held.done_bytes
        else:
            request, sent_bytes = table.request(flow), table.state(flow).sent_bytes
        layer = table.current_layer(request.batch) if request.batch else 0
        return self._levels.level(request, sent_bytes, layer, time.monotonic_ns()), request.deadline_ns

    def _news(self, news: PolicyDocument | str | None) -> None:
        if news is None:
            self._policy["controller"] = ANSWERS
            _log.info("the controller answers again")
            return
        if isinstance(news, str):
            self._policy["controller"] = news
            _log.warning("%s", news)
            return
        try:
            self._apply(news, self._service.policy_url)
        except AgentError as error:
            _log.error("%s; the earlier policy stays in force", error)

    def _apply(self, document: PolicyDocument, origin: str) -> None:
        self._attached.table.set_policy(document.rules, self._bias)
        self._levels.set_rules(document.rules)
        self._policy = {"name": document.name, "rules": len(document.rules), "from": origin}
        self._policy["controller"] = ANSWERS if origin != "disk" else self._policy.get("controller", "gone")
        _log.info("policy %s in force, %d rules, from %s", document.name, len(document.rules), origin)
        if origin != "disk":
            try:
                self._source.save(document)
            except PolicyError as error:
                _log.warning("%s", error)

    def _status(self) -> dict[str, Any]:
        attached = self._attached
        programs = {"egress": attached.egress, "ingress": attached.ingress, "sockets": attached.sock_ops}
        infos = {name: program.info() for name, program in programs.items() if program is not None}
        return {
            "interface": self._options.interface,
            "carrier": attached.carrier,
            "rate_bps": self._attached.rate_bps,
            "pid": os.getpid(),
            "up_s": round(time.monotonic() - self._started, 1),
            "policy": self._policy,
            "tcp_timestamps": time_stamps(),
            "counters": asdict(self._attached.table.counters()),
            "hold": None if self._holder is None else self._holder.status(),
            "registrations": {"sent": self._registrar.sent, "unresolved": self._registrar.unresolved},
            "gate": {"waiting": self._gate.waiting, "in_flight_bytes": self._gate.in_flight_bytes},
            "programs": {
                name: {"id": info.number, "runs": info.runs, "run_time_ns": info.run_time_ns}
                for name, info in infos.items()
            },
        }


def _holder(options: InterfaceOptions, service: ServiceOptions, attached: Attached, levels: Levels) -> Holder | None:
    table, config = attached.table, attached.table.config
    if not config.kick_mark:
        return None
    holder = Holder(
        table,
        HoldTable(table.maps),
        Kicker(options.interface, config.kick_mark),
        levels,
        HoldOptions(attached.rate_bps, config.max_frame, service.hold_below),
    )
    holder.adopt()
    table.on_close = holder.closed
    return holder


async def _renew(registrations: Registrations) -> None:
    """Repeat registrations before the switches forget them."""
    while True:
        await asyncio.sleep(RENEW_S)
        registrations.renew()


async def _turns(holder: Holder) -> None:
    """Take turns while there is anything to hold."""
    woken = asyncio.Event()
    holder.wake = woken.set
    while True:
        if not holder.busy:
            woken.clear()
            await woken.wait()
        await asyncio.sleep(TICK_S)
        try:
            holder.turn()
        except AgentError as error:
            # Grants expire by themselves.
            _log.error("flows are no longer held: %s; restart the agent", error)
            return


def run_agent(options: InterfaceOptions, service: ServiceOptions) -> None:
    """Attach to the interface, serve until SIGTERM or SIGINT, and restore the interface.

    Policy URL, state file and socket are checked before the interface is changed.

    Raises:
        AgentError: the interface, the kernel, the policy's URL or the socket is not usable.
    """
    PolicySource(service.policy_url, tls=service.policy_tls)
    # Signals wait until the current step is complete.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    with (
        locked(options.interface, service.state_directory) as state,
        listening(service.socket, service.mode, service.group) as listener,
    ):
        attached = attach(options, state)
        try:
            statistics = enable_statistics() if service.statistics else None
            how = "took over the running programs" if attached.taken_over else "attached"
            what = {"option": "stamps in a TCP option", "shim": "stamps in a shim"}[attached.carrier]
            _log.info("%s: %s, %g Gb/s, %s", options.interface, how, attached.rate_bps / 1e9, what)
            if time_stamps():
                _log.warning(
                    "TCP time stamps are on: the receiver of a promoted flow drops the packets that the promotion "
                    "overtook (RFC 7323, section 5); turn them off on all servers: sysctl -w net.ipv4.tcp_timestamps=0"
                )
            running = Service(options, service, attached)
            running.first_policy()
            asyncio.run(running.run(listener))
            if statistics is not None:
                os.close(statistics)
        finally:
            backup = state.read()
            # Others may go on sending stamps in the shim to this host.
            shims = attached.carrier == "shim" or attached.table.counters().removed > 0
            left = None if backup is None else restore(backup, keep_ingress=shims)
            state.put(left)
    if left is not None:
        _log.info(
            "%s: stamps in a shim are still removed from received packets, since others may send them; "
            "`mfs agent detach` ends that",
            options.interface,
        )
    _log.info("%s: detached", options.interface)


@contextlib.contextmanager
def locked(interface: str, directory: Path) -> Iterator[StateFile]:
    """Provide the interface's state file, locked for this process."""
    state = StateFile(directory, interface)
    try:
        yield state
    finally:
        state.close()


@contextlib.contextmanager
def listening(path: Path, mode: int, group: str | None) -> Iterator[socket.socket]:
    """Provide a listening Unix socket at ``path``, removed at the end; ``mode`` and ``group`` say who may connect.

    Raises:
        SocketError: another agent serves the path, it is not a socket, or it cannot be created.
    """
    try:
        number = -1 if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise SocketError(f"there is no group {group!r}; `getent group` lists the groups") from None
    try:
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise SocketError(f"{path} exists and is not a socket; choose another --socket")
        if path.exists() and _answers(path):
            raise SocketError(f"another agent serves {path}; choose another --socket")
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Nobody can connect before mode and group are set.
        before = os.umask(0o777)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        os.chown(path, -1, number)
        path.chmod(mode)
        # Clients wait from now on, and another agent sees that the path is taken.
        listener.listen()
    except OSError as error:
        raise SocketError(f"cannot serve {path}: {error.strerror or error}; choose another --socket") from None
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Return the next line; a client may be silent for ever, but not within a line."""
    first = await reader.readexactly(1)
    if first == b"\n":
        return first
    async with asyncio.timeout(LINE_S):
        return first + await reader.readuntil(b"\n")


async def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    await writer.drain()


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Schedule the call in ``loop``, unless the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
