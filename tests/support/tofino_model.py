"""The open-source functional model of Tofino with the drivers' ``bf_switchd``, between veth interfaces.

The installation is found by ``SDE_INSTALL``, as in the drivers' own scripts. One model runs at a time.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc

from mfs_ctrl.tofino.bf_runtime import ALL_DIRECTIONS, ALL_PARSERS
from mfs_ctrl.tofino.messages import BF_RUNTIME, INSERT
from p4src.artifact import BUILD, TOFINO, TOFINO_2
from topologies.processes import Process, free_port

SDE_INSTALL = "SDE_INSTALL"
CHIP_TYPES = {TOFINO: "2", TOFINO_2: "5"}
FAMILIES = {TOFINO: "tf1", TOFINO_2: "tf2"}
READY_S = 120
MODEL_PORTS = 9
"""Between the model and the drivers."""
HUGE_PAGES = 256
"""Of 2 MiB, for the driver's DMA buffers."""
_QUEUE_ID = re.compile(r":(0x[0-9A-Fa-f]+):-:.*ig_intr_md_for_tm\.qid\[\d+:0\] = 0x([0-9A-Fa-f]+)")
"""The packet's number in the log, and what an action wrote; the last of them counts."""


def missing(name: str) -> str:
    """Why the program ``name`` cannot run on the model here; empty if it can."""
    folder = os.environ.get(SDE_INSTALL)
    if folder is None:
        return f"{SDE_INSTALL} does not name an installation of the Tofino model"
    for program in ("tofino-model", "bf_switchd"):
        if not (Path(folder) / "bin" / program).is_file():
            return f"{folder}/bin has no {program}"
    if not (BUILD / name / "mfs.conf").is_file():
        return f"{BUILD / name} is not there; `mfs p4 build` makes it where p4c-barefoot is installed"
    if os.geteuid() != 0:
        return "the model needs root: interfaces and huge pages"
    if CHIP_TYPES[name] not in _chip_types(Path(folder)):
        return f"the model in {folder} was built without the chip of {name}"
    return ""


@functools.cache
def _chip_types(install: Path) -> frozenset[str]:
    """Numbers of the chips that the model knows; it lists them when it is asked for one that it does not know."""
    words = [str(install / "bin" / "tofino-model"), "--chip-type", "0", "--no-cli"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(install / "lib")}
    with tempfile.TemporaryDirectory(prefix="mfstm") as folder:
        done = subprocess.run(
            words, capture_output=True, text=True, env=environment, cwd=folder, timeout=60, check=False
        )
    _, _, listed = (done.stdout + done.stderr).partition("Available types:")
    return frozenset(re.findall(r"=(\d+)", listed))


@contextlib.contextmanager
def running(name: str, interfaces: Mapping[int, str], log: Path | None = None) -> Iterator[str]:
    """The model with the program ``name`` and its ports behind ``interfaces``; yields BF Runtime's address.

    With ``log``, an empty folder, the model says there what becomes of each packet (120 KB each).
    """
    install = Path(os.environ[SDE_INSTALL])
    pages = Path("/proc/sys/vm/nr_hugepages")
    if int(pages.read_text()) < HUGE_PAGES:
        pages.write_text(str(HUGE_PAGES))
    environment = f"LD_LIBRARY_PATH={install / 'lib'}"
    stub = install / "lib" / "libport_mgr_hw.so"
    base = _free_block()
    status, service, cli = (free_port() for _ in range(3))
    with tempfile.TemporaryDirectory(prefix="mfstm") as folder:
        ports = Path(folder) / "ports.json"
        ports.write_text(json.dumps({"PortToIf": [{"device_port": p, "if": i} for p, i in interfaces.items()]}))
        conf = Path(folder) / "mfs.conf"
        conf.write_text(json.dumps(_absolute(json.loads((BUILD / name / "mfs.conf").read_text()), BUILD / name)))
        with _chdir(folder):
            model = Process(
                [
                    *("env", environment, str(install / "bin/tofino-model"), "-f", str(ports)),
                    *("--chip-type", CHIP_TYPES[name], "--install-dir", str(install), "--p4-target-config", str(conf)),
                    *("--tcp-port-base", str(base), "--cli-port", str(cli), "--no-cli"),
                    *(("--log-dir", folder, "--logs-disable") if log is None else ("--log-dir", str(log))),
                ],
                lambda output: "Listen socket created" in output or "INFO: P4" in output or len(output) > 0,
            )
            switchd = Process(
                [
                    *("env", environment, f"LD_PRELOAD={stub}", str(install / "bin/bf_switchd"), "--background"),
                    *("--install-dir", str(install), "--conf-file", str(conf), "--init-mode", "cold"),
                    *("--tcp-port-base", str(base), "--status-port", str(status), "--bfrt-grpc-port", str(service)),
                ],
                lambda _: True,
            )
        address = f"127.0.0.1:{service}"
        try:
            _await_service(address, switchd)
            _enable_ports(address, install, name, tuple(interfaces))
            yield address
        finally:
            switchd.stop()
            model.stop()


def queue_ids(log: Path) -> list[int]:
    """The queue id that ingress chose for each packet in the log, in the order in which they came in."""
    chosen: dict[str, int] = {}
    for line in "".join(path.read_text(errors="replace") for path in log.glob("*.log")).splitlines():
        if found := _QUEUE_ID.search(line):
            chosen[found[1]] = int(found[2], 16)
    return list(chosen.values())


def _free_block() -> int:
    """The first of consecutive free TCP ports, outside the range from which the kernel gives others."""
    for base in range(20_000 + os.getpid() % 500 * 10, 32_000, 10):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(base, base + MODEL_PORTS):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base
    raise RuntimeError("no free block of TCP ports for the model")


def _absolute(conf: dict, folder: Path) -> dict:  # type: ignore[type-arg]
    """The compiler's conf with absolute paths; the program's own folder may have been moved."""
    for device in conf["p4_devices"]:
        for program in device["p4_programs"]:
            program["bfrt-config"] = str(folder / "bf-rt.json")
            for pipeline in program["p4_pipelines"]:
                pipe = folder / pipeline["p4_pipeline_name"]
                for key in ("context", "config"):
                    pipeline[key] = str(pipe / Path(pipeline[key]).name)
                pipeline["path"] = str(folder)
    return conf


def _await_service(address: str, switchd: Process) -> None:
    from mfs_ctrl.errors import TofinoError
    from mfs_ctrl.tofino.bf_runtime import BfRuntime

    deadline = time.monotonic() + READY_S
    while True:
        try:
            BfRuntime(address, timeout_s=20).close()
            return
        except TofinoError as error:
            if not switchd.alive or time.monotonic() > deadline:
                raise RuntimeError(f"bf_switchd is not ready: {error}; {switchd.output()[-2000:]}") from None
            time.sleep(0.5)


def _enable_ports(address: str, install: Path, name: str, ports: tuple[int, ...]) -> None:
    described = json.loads((install / f"share/bf_rt_shared/bf_rt_port_{FAMILIES[name]}.json").read_text())
    table = next(table for table in described["tables"] if table["name"] == "$PORT")
    ids = {item.get("singleton", item)["name"]: item.get("singleton", item)["id"] for item in table["data"]}
    request = BF_RUNTIME["WriteRequest"](client_id=77, p4_name="mfs")
    request.target.pipe_id, request.target.direction, request.target.prsr_id = 0xFFFF, ALL_DIRECTIONS, ALL_PARSERS
    for port in ports:
        entry = request.updates.add(type=INSERT).entity.table_entry
        entry.table_id = table["id"]
        entry.key.fields.add(field_id=table["key"][0]["id"]).exact.value = port.to_bytes(4, "big")
        for field, value in (("$SPEED", "BF_SPEED_10G"), ("$FEC", "BF_FEC_TYP_NONE")):
            entry.data.fields.add(field_id=ids[field]).str_val = value
        entry.data.fields.add(field_id=ids["$PORT_ENABLE"]).bool_val = True
    channel = grpc.insecure_channel(address)
    answer = BF_RUNTIME["WriteResponse"].FromString
    write = channel.unary_unary("/bfrt_proto.BfRuntime/Write", BF_RUNTIME["WriteRequest"].SerializeToString, answer)
    write(request, timeout=30)
    channel.close()
    time.sleep(3)


@contextlib.contextmanager
def _chdir(folder: str) -> Iterator[None]:
    """Logs are written into the working folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
