"""The agent as a process: it attaches, serves its socket, follows the controller's policy, and takes all of it back."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from host_agent.daemon.hooks import Attached, Options, Say, attach, restore
from host_agent.daemon.requests import Client, Requests
from host_agent.daemon.state import StateFile
from host_agent.ebpf.bpf import enable_statistics
from host_agent.ebpf.errors import HostError, PolicyError, RequestError
from host_agent.ebpf.policy import PolicySource, PolicyWatch, saved_path
from host_agent.protocol.level import bias_code
from host_agent.protocol.policy_document import PolicyDocument

LINE_MAX = 1 << 16
"""Bytes of the longest request."""
_ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How the process runs.

    Attributes:
        policy_url: of the controller, ``http://HOST:PORT``.
        socket: path of the Unix socket; who may write to the file may open flows.
        mode, group: of that file; no group: the process's own.
        state_directory: where the interface's state and the last good policy are kept.
        interval_s: between questions for the policy.
        grace_s: how long the clients of flows that another process left have to come back.
        statistics: have the kernel measure the programs' run time.
    """

    policy_url: str
    socket: Path
    mode: int
    group: str | None
    state_directory: Path
    interval_s: float
    grace_s: float
    statistics: bool


class Service:
    """One attached interface, from the first client to the signal that ends it."""

    def __init__(self, options: Options, service: ServiceOptions, attached: Attached, say: Say) -> None:
        self._options = options
        self._service = service
        self._attached = attached
        self._say = say
        self._bias = bias_code(attached.rate_bps)
        self._source = PolicySource(service.policy_url, saved_path(service.state_directory, options.interface))
        self._policy: dict[str, Any] = {"name": None, "from": None, "controller": "not asked yet"}
        self._requests = Requests(attached.table, self._status)
        self._started = time.monotonic()

    def first_policy(self) -> None:
        """The controller's policy, else the one kept on disk, else none as yet."""
        try:
            document = self._source.fetch()
            assert document is not None
            self._apply(document, self._service.policy_url)
            return
        except PolicyError as error:
            self._policy["controller"] = str(error)
            self._say(f"{error}; trying again")
        saved = self._source.load()
        if saved is not None:
            self._apply(saved, "disk")
        elif not self._attached.taken_over:
            self._say("no policy yet: every packet has the level of untagged traffic")

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RequestError: the socket cannot be made.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in _ENDING:
            loop.add_signal_handler(number, ended.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        watch = PolicyWatch(
            self._source,
            self._service.interval_s,
            lambda news: _quietly(loop, lambda: self._news(news)),
        )
        listener = listen(self._service.socket, self._service.mode, self._service.group)
        server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_MAX)
        unclaimed = loop.call_later(self._service.grace_s, self._close_unclaimed)
        watch.start()
        try:
            self._say(f"serving {self._service.socket}")
            await ended.wait()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            unclaimed.cancel()
            watch.close()
            server.close()
            self._service.socket.unlink(missing_ok=True)

    def _close_unclaimed(self) -> None:
        if count := self._requests.close_unclaimed():
            self._say(f"{count} flows closed, whose clients did not come back")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client()
        try:
            while True:
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError:
                    answer: dict[str, Any] = {"ok": False, "error": f"a request is {LINE_MAX} bytes at most"}
                    await _send(writer, answer)
                    return
                await _send(writer, self._answer(client, line))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._requests.gone(client)
            writer.close()

    def _answer(self, client: Client, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError as error:
            return {"ok": False, "error": f"no JSON: {error}"}
        return self._requests.answer(client, request)

    def _news(self, news: PolicyDocument | str) -> None:
        if isinstance(news, str):
            self._policy["controller"] = news
            self._say(news)
            return
        try:
            self._apply(news, self._service.policy_url)
        except HostError as error:
            self._say(f"{error}; the policy before stays")

    def _apply(self, document: PolicyDocument, origin: str) -> None:
        self._attached.table.set_policy(document.rules, self._bias)
        self._policy = {"name": document.name, "rules": len(document.rules), "from": origin}
        self._policy["controller"] = "answers" if origin != "disk" else self._policy.get("controller", "gone")
        self._say(f"policy {document.name} in force, {len(document.rules)} rules, from {origin}")
        if origin != "disk":
            try:
                self._source.save(document)
            except PolicyError as error:
                self._say(str(error))

    def _status(self) -> dict[str, Any]:
        programs = {"egress": self._attached.egress, "ingress": self._attached.ingress}
        infos = {name: program.info() for name, program in programs.items() if program is not None}
        return {
            "interface": self._options.interface,
            "rate_bps": self._attached.rate_bps,
            "pid": os.getpid(),
            "up_s": round(time.monotonic() - self._started, 1),
            "policy": self._policy,
            "counters": asdict(self._attached.table.counters()),
            "programs": {
                name: {"id": info.number, "runs": info.runs, "run_time_ns": info.run_time_ns}
                for name, info in infos.items()
            },
        }


def run_agent(options: Options, service: ServiceOptions, say: Say) -> None:
    """Attach, serve until SIGTERM or SIGINT arrives, and take everything back.

    Raises:
        HostError: the interface, the kernel, the policy's URL or the socket will not do.
    """
    PolicySource(service.policy_url)
    # A signal waits until what has begun is done.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    with held(options.interface, service.state_directory) as state:
        attached = attach(options, state, say)
        try:
            statistics = enable_statistics() if service.statistics else None
            how = "taken over, as it ran" if attached.taken_over else "attached"
            say(f"{options.interface}: {how}, {attached.rate_bps / 1e9:g} Gb/s")
            running = Service(options, service, attached, say)
            running.first_policy()
            asyncio.run(running.run())
            if statistics is not None:
                os.close(statistics)
        finally:
            before = state.read()
            if before is not None:
                restore(before)
            state.remove()
    say(f"{options.interface}: detached")


@contextlib.contextmanager
def held(interface: str, directory: Path) -> Iterator[StateFile]:
    """Within, this process alone has the interface's state file."""
    state = StateFile(directory, interface)
    try:
        yield state
    finally:
        state.close()


def listen(path: Path, mode: int, group: str | None) -> socket.socket:
    """A Unix socket at ``path`` that those may open whom ``mode`` and ``group`` allow to write.

    Raises:
        RequestError: another agent serves it, something else is there, or it cannot be made.
    """
    try:
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise RequestError(f"{path} is there and no socket")
        if path.exists() and _answers(path):
            raise RequestError(f"another agent serves {path}; choose another --socket")
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Nobody connects before mode and group are right.
        before = os.umask(0o777)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if group is not None:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(mode)
    except KeyError:
        raise RequestError(f"there is no group {group!r}") from None
    except OSError as error:
        raise RequestError(f"cannot serve {path}: {error.strerror or error}") from None
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


async def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    await writer.drain()


def _quietly(loop: asyncio.AbstractEventLoop, call: Any) -> None:
    """Have ``loop`` make the call, unless it has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
