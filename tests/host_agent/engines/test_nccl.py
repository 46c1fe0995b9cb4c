"""The plugin of NCCL's profiler, driven by a stub that calls its table of functions. NCCL itself takes no part."""

from __future__ import annotations

import ctypes
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from host_agent import Match
from host_agent.engines import nccl
from host_agent.engines.nccl import build

STUB = Path(__file__).with_name("nccl_stub.c")

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) is on the PATH")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("nccl") / "libnccl-profiler-mfs.so"
    assert build.main([str(library)]) == 0
    return library


def test_the_sockets_of_sends_and_the_queue_pairs_are_noted(plugin: Path, tmp_path: Path) -> None:
    stub = tmp_path / "nccl_stub"
    flags = ["-std=gnu11", "-Wall", "-Werror", "-I", str(build.SOURCE.parent)]
    subprocess.run(["cc", *flags, str(STUB), "-o", str(stub), "-ldl", "-lpthread"], check=True)
    done = subprocess.run([stub, plugin], capture_output=True, text=True, check=True)
    said = [line.split() for line in done.stdout.splitlines()]
    cookies = [value for what, value in said if what == "cookie"]
    assert ["name", "mfs"] in said
    assert ["mask", "128"] in said
    # The third connection only receives.
    assert sorted(value for what, value in said if what == "noted") == sorted(cookies[:2])
    assert sorted(value for what, value in said if what == "pair") == ["1a2b", "1a2c"]


def test_the_engine_reads_what_the_plugin_has_noted(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(nccl.PLUGIN_VARIABLE, raising=False)
    assert nccl.connections() == []
    # Of another plugin, or of one that NCCL finds by a short name, nothing is known.
    for other in ("mfs", "/no/such/file.so", "libc.so.6"):
        monkeypatch.setenv(nccl.PLUGIN_VARIABLE, other)
        assert nccl.connections() == []
    monkeypatch.setenv(nccl.PLUGIN_VARIABLE, str(plugin))
    assert nccl.connections() == []

    class Socket(ctypes.Structure):
        _fields_ = [("fd", ctypes.c_int), ("operation", ctypes.c_int), ("length", ctypes.c_size_t)]

    class SocketEvent(ctypes.Structure):
        _fields_ = [("type", ctypes.c_uint8), ("socket", Socket)]

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        event = SocketEvent(1, Socket(near.fileno(), 0, 4096))
        described = (ctypes.c_uint64 * 16)(1 << 7, 0, 0, 2 << 16 | 1, ctypes.addressof(event))
        table = (ctypes.c_void_p * 6).in_dll(ctypes.CDLL(str(plugin)), "ncclProfiler_v4")
        start = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(table[2] or 0)
        handle = ctypes.c_void_p()
        assert start(None, ctypes.addressof(handle), ctypes.addressof(described)) == 0
        assert nccl.connections() == [Match.of_socket(near)]


def test_a_build_that_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main([str(tmp_path / "no" / "such" / "folder.so")]) == 1
    assert "cannot make" in capsys.readouterr().err
    assert build.main([]) == 2
    assert build.main(["--help"]) == 0
