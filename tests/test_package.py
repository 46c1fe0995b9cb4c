"""The Debian package: installed, used, upgraded, taken back and removed in a copy of this machine's files.

The copy is an overlay whose upper layer is in memory, in namespaces of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.realtime import real_kernel
from topologies.processes import Process

ROOT = Path(__file__).parents[1]
PYTHON = Path("/usr/bin/python3")
NEWER = "9.9.9"
LEFT = re.compile(
    r"(etc/(passwd|group|g?shadow|subuid|subgid)-?|etc/\.(pwd|updated).*|(var/lib/dpkg|var/cache|var/log|tmp)/.*)"
)
"""What a purge may leave: the user, as is the custom, and what dpkg writes of itself."""

pytestmark = [real_kernel, pytest.mark.slow]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    if subprocess.run([PYTHON, "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        pytest.skip("Debian's python3 and python3-venv are not installed")
    folder = tmp_path_factory.mktemp("deb")
    words = ["sh", ROOT / "deploy" / "debian" / "build.sh", folder]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index is reachable")
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("mfs_*.deb")
    return built


@pytest.fixture(scope="module")
def newer(package: Path) -> Path:
    """The same package as of another version."""
    tree, built = package.parent / "tree", package.parent / "newer.deb"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub("^Version: .*$", f"Version: {NEWER}", control.read_text("utf-8"), flags=re.M), "utf-8")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, built], check=True, capture_output=True)
    return built


class Machine:
    """This machine's files under an overlay, with a network of its own."""

    def __init__(self, folder: Path) -> None:
        self.upper, self.root = folder / "memory" / "upper", folder / "memory" / "root"
        script = f"""set -e
            mkdir {folder}/memory && mount -t tmpfs none {folder}/memory && cd {folder}/memory && mkdir upper work root
            mount -t overlay none -o lowerdir=/,upperdir=upper,workdir=work root
            for name in proc dev sys; do mount --rbind /$name root/$name; done
            mount -t tmpfs none root/run
            mkdir root/tmp/deb && mount --bind {folder} root/tmp/deb
            ip link set lo up && ip link add veth0 type veth peer name veth1
            ip link set veth0 up && ip link set veth1 up && ip address add 10.9.9.1/24 dev veth0
            echo ready; exec sleep 1000"""
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            pytest.skip(f"no overlay of this machine's files: {self._holder.stderr.read().strip()}")

    def words(self, *command: str) -> list[str]:
        # As of a new machine: nothing of this environment.
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "XDG_CACHE_HOME=/tmp/cache")
        enter = ("nsenter", "-t", str(self._holder.pid), "--mount", "--net", "chroot", str(self.root))
        return [*enter, *clean, *command]

    def run(self, *command: str) -> str:
        done = subprocess.run(self.words(*command), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def changed(self) -> set[str]:
        """Files that are not as on this machine."""
        enter = ["nsenter", "-t", str(self._holder.pid), "--mount", "find", str(self.upper)]
        found = subprocess.run(
            [*enter, "!", "-type", "d", "-printf", "%P\\n"], capture_output=True, text=True, check=True
        )
        return set(found.stdout.splitlines())

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


@pytest.fixture
def machine(package: Path, newer: Path, tmp_path: Path) -> Iterator[Machine]:
    shutil.copy(package, tmp_path / "this.deb")
    shutil.copy(newer, tmp_path / "newer.deb")
    made = Machine(tmp_path)
    try:
        made.run("sh", "-c", "! command -v mfs")
        yield made
    finally:
        made.close()


def test_it_is_installed_and_removed_without_a_trace(machine: Machine) -> None:
    machine.run("dpkg", "-i", "/tmp/deb/this.deb")
    assert re.match(r"mfs, version \d", machine.run("mfs", "--version"))
    assert machine.run("dpkg", "--verify", "mfs") == ""
    machine.run("bash", "-c", ". /usr/share/bash-completion/completions/mfs && complete -p mfs")
    assert machine.run("stat", "-c", "%a %U:%G", "/run/mfs", "/etc/mfs") == "755 root:mfs\n750 root:mfs\n"
    assert ":/usr/sbin/nologin" in machine.run("getent", "passwd", "mfs")
    units = [f"/usr/lib/systemd/system/mfs-{name}.service" for name in ("ctrl", "switch", "agent@")]
    assert "mfs" not in machine.run("systemd-analyze", "verify", "--man=no", *units[:2])
    machine.run("ls", *units)
    # Settings of the operator survive a removal, and go with a purge.
    machine.run("sh", "-c", "echo MFS_CTRL_OPTIONS=-v > /etc/mfs/ctrl.env")
    machine.run("dpkg", "-r", "mfs")
    machine.run("sh", "-c", "! command -v mfs && test ! -e /opt/mfs && cat /etc/mfs/ctrl.env")
    machine.run("dpkg", "-P", "mfs")
    assert sorted(name for name in machine.changed() if not LEFT.fullmatch(name)) == []


def test_an_upgrade_and_the_way_back_leave_what_runs(machine: Machine) -> None:
    machine.run("dpkg", "-i", "/tmp/deb/this.deb")
    address = ("--address", "127.0.0.1:9559")
    as_mfs = ("setpriv", "--reuid=mfs", "--regid=mfs", "--clear-groups")
    switch = Process(machine.words(*as_mfs, "mfs", "switch", *address), lambda out: "9559" in out)
    ctrl = (*as_mfs, "mfs", "ctrl", *address, "--policy-listen", "9560", "--interval", "0.1")
    agent = ("mfs", "agent", "run", "--interface", "veth0", "--rate", "1G", "--carrier", "shim", "--group", "mfs")
    with (
        switch,
        Process(machine.words(*ctrl), lambda out: "in force" in out) as controller,
        Process(
            machine.words(*agent, "--policy-url", "http://127.0.0.1:9560", "--socket", "/run/mfs/veth0.sock"),
            lambda out: "attached" in out,
        ) as stamping,
    ):
        for deb, version in (("newer", NEWER), ("this", "0.")):
            machine.run("dpkg", "-i", f"/tmp/deb/{deb}.deb")
            assert machine.run("dpkg-query", "-W", "-f", "${Version}", "mfs").startswith(version)
            # What runs is of the first version and works with commands and controllers of the other.
            assert {switch.alive, controller.alive, stamping.alive} == {True}
            assert "rmlq" in machine.run("mfs", "switch", "entries", *address)
            assert "veth0" in machine.run("mfs", "status", *address)
            with Process(machine.words(*ctrl[:-4], "--election-id", "7"), lambda out: "connected" in out) as backup:
                assert "as backup" in backup.output() or "0 entries written" in backup.output()
        stamping.kill()
        assert "bpf" in machine.run("tc", "filter", "show", "dev", "veth0", "egress")
        # A removal restores the interfaces.
        machine.run("dpkg", "-r", "mfs")
        assert machine.run("tc", "filter", "show", "dev", "veth0", "egress") == ""
