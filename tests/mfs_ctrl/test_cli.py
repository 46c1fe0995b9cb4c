"""``mfs switch`` and ``mfs ctrl`` as processes of their own, and what they say when they cannot start."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from p4.v1 import p4runtime_pb2

from host_agent.ebpf.policy import PolicySource
from mfs_ctrl import cli
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases, policy_rows
from mfs_ctrl.p4rt.entries import TableEntry
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.policy import policy as policies
from mfs_ctrl.writer import EPOCHS
from p4src import artifact
from tests.support.cli import finished, free_address, messages, one_error, started
from tests.support.controller import INDEX
from tests.support.p4runtime import CPU_PORT, Client, SetConfig, ethernet, features_config
from topologies.topology import tor


@pytest.fixture
def address() -> str:
    return free_address()


def test_help_names_the_commands() -> None:
    done = finished("--help")
    assert done.returncode == 0
    commands = done.stdout.partition("Commands:")[2].split("\n")
    assert {"agent", "demo", "switch", "ctrl", "sweep", "report"} <= {
        line.split()[0] for line in commands if line.strip()
    }
    assert "Traceback" not in done.stderr


def test_controller_gives_a_switch_its_entries_and_both_end_on_sigterm(address: str) -> None:
    with started("switch", "--address", address) as switch:
        assert address in switch.log_line()
        options = ("--servers", "2", "--nics", "2", "--rate", "10G", "--interval", "0.05")
        with started("ctrl", "--address", address, *options, "--policy-listen", "127.0.0.1:0") as controller:
            policy_url = controller.line().split()[-1].removesuffix("/policy")
            assert "policy mfs in force" in controller.line()
            # Host agents get the same rules.
            document = PolicySource(policy_url).fetch()
            assert document is not None
            assert document.rules == policies.mfs().rules
            # Another controller sees what is there, while the first goes on.
            session = Session(address, election_id=1 << 64)
            session.connect()
            state = set(session.read_state(INDEX))
            session.close()
            status, out, errors = controller.end()
            assert (status, errors) == (0, "")
            assert out.endswith("stopped; the switch keeps its entries\n")
        topology = tor(2, 2, 10_000_000_000)
        wanted = policy_rows(policies.mfs().rules, topology, SwitchParameters())
        assert set(base_entities(topology, SwitchParameters(), initial_biases(topology))) <= state
        rows = {entity for entity in state if isinstance(entity, TableEntry) and entity.table == "rmlq"}
        [epoch] = [epoch for epoch in EPOCHS if wanted.activation(epoch) in state]
        assert rows == set(wanted.entries(epoch))
        status, out, log = switch.end()
        assert (status, out, messages(log)) == (0, "", ["stopped"])


def test_a_program_of_ones_own_is_given_to_the_switch(address: str, tmp_path: Path) -> None:
    config, p4info = tmp_path / "own.json", tmp_path / "own.p4info.txtpb"
    config.write_bytes(artifact.load().config)
    p4info.write_text(artifact.load().p4info)
    with started("switch", "--empty", "--address", address) as switch:
        assert "no program yet" in switch.log_line()
        options = ("--servers", "2", "--nics", "1")
        program = ("--device-config", str(config), "--p4info", str(p4info))
        with started("ctrl", "--address", address, *options, *program) as controller:
            assert "policy mfs in force" in controller.line()
            session = Session(address, election_id=1 << 64)
            session.connect()
            state = set(session.read_state(INDEX))
            session.close()
    topology = tor(2, 1)
    assert set(base_entities(topology, SwitchParameters(), initial_biases(topology))) <= state


def test_half_a_program_is_refused(mfs: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert mfs("ctrl", "--device-config", "mfs.pb") == 2
    assert "go together" in capsys.readouterr().err
    assert mfs("ctrl", "--device-config", str(tmp_path / "none"), "--p4info", str(tmp_path / "none")) == 1
    assert "cannot read the program" in capsys.readouterr().err


def test_a_switch_with_a_port_for_the_controller(address: str) -> None:
    with started("switch", "--empty", "--address", address, "--cpu-port", str(CPU_PORT), "--device-id", "7") as switch:
        switch.log_line()
        client = Client(int(address.rpartition(":")[2]), device_id=7).primary()
        client.set_config(SetConfig.VERIFY_AND_COMMIT, features_config())
        packet = p4runtime_pb2.PacketOut(payload=ethernet())
        packet.metadata.add(metadata_id=1, value=CPU_PORT.to_bytes(2, "big"))
        packet.metadata.add(metadata_id=2, value=b"\0")
        client.send(packet=packet)
        # The program puts no packet_in header in front, so the first four bytes are taken for one.
        assert client.receive(timeout=60).packet.payload == ethernet()[4:]
        client.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_empty_switch_ends_on_a_signal(address: str, number: signal.Signals) -> None:
    with started("switch", "--empty", "--address", address) as switch:
        assert "no program yet" in switch.log_line()
        status, out, log = switch.end(number)
        assert (status, out, messages(log)) == (0, "", ["stopped"])


def test_a_switch_on_a_busy_port() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        assert f"cannot listen on {address}" in one_error(finished("switch", "--address", address))


def test_a_controller_without_a_switch(address: str) -> None:
    assert f"no P4Runtime server answers at {address}" in one_error(finished("ctrl", "--address", address))


@pytest.fixture
def mfs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, in this process; gives its exit status."""

    def call(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["mfs", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return call


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("ctrl", "--servers", "0"),
        ("ctrl", "--servers", "201"),
        ("ctrl", "--nics", "9"),
        ("ctrl", "--rate", "nan"),
        ("ctrl", "--rate", "0"),
        ("ctrl", "--rate", "inf"),
        ("ctrl", "--interval", "-1"),
        ("ctrl", "--election-id", "0"),
        ("ctrl", "--election-id", str(1 << 128)),
        ("ctrl", "--device-id", str(1 << 64)),
        ("ctrl", "--policy", "lifo"),
        ("agent run", "--rate", "0"),
        ("agent run", "--mode", "0999"),
        ("agent run", "--ingress", "fast"),
        ("switch", "--device-id", "-1"),
        ("sweep", "--servers", "0"),
        ("sweep", "--requests", "2"),
        ("sweep", "--oversubscription", "0"),
        ("sweep", "--request-rate-per-gpu", "0"),
    ],
)
def test_absurd_options_are_named(
    mfs: Callable[..., int], capsys: pytest.CaptureFixture[str], command: str, option: str, value: str
) -> None:
    assert mfs(*command.split(), option, value) == 2
    message = capsys.readouterr().err
    assert f"Invalid value for '{option}'" in message
    assert "Traceback" not in message


def test_an_extra_that_is_not_installed_is_named(
    mfs: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mfs_eval.demo", "host_agent.daemon.hooks", "mfs_ctrl.service"):
        monkeypatch.setitem(sys.modules, name, None)
    assert mfs("demo") == 1
    assert "pip install 'mfs-switch[eval]'" in capsys.readouterr().err
    assert mfs("agent", "detach", "--interface", "lo") == 1
    assert "pip install 'mfs-switch[net]'" in capsys.readouterr().err
    assert mfs("ctrl") == 1
    assert "pip install 'mfs-switch[ctrl]'" in capsys.readouterr().err
