"""The Wireshark dissector, compared with the codec by tshark."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from host_agent.protocol.stamp import ETHERTYPE_MFS, REMAINING_UNIT_BYTES, STAMP_BYTES, VERSION, Flags, Stage, Stamp
from tests.support.segments import LEADS, segment
from topologies.topology import tor

DISSECTOR = Path(__file__).parents[2] / "host_agent" / "wireshark" / "mfs.lua"
ADDRESSES = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def dissected(folder: Path, frames: list[bytes]) -> list[dict[str, Any]]:
    """The layers of each frame, with fields by name."""
    wrpcap(str(folder / "frames.pcap"), [Ether(frame) for frame in frames])
    command = [
        "tshark",
        "-X",
        f"lua_script:{DISSECTOR}",
        "-r",
        folder / "frames.pcap",
        "-T",
        "ek",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "Lua" not in done.stderr, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"timestamp"')]
    return [line["layers"] for line in lines]


def framed(shim: bytes, after: bytes = b"") -> bytes:
    return bytes(Ether(**ADDRESSES, type=ETHERTYPE_MFS) / Raw(shim + after))


def test_the_dissector_shows_the_fields_of_the_codec(tmp_path: Path) -> None:
    rng = random.Random(7)
    stamps = [
        Stamp(
            rng.choice(list(Stage)),
            rng.choice([Flags.NONE, Flags.FIRST | Flags.BOUNDARY, Flags.LAST]),
            0x0800,
            rng.getrandbits(32),
            rng.getrandbits(16),
            rng.getrandbits(8),
            rng.getrandbits(8),
            rng.randrange(-(1 << 31), 1 << 31),
            rng.getrandbits(32),
        )
        for _ in range(50)
    ]
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=4000, dport=4001) / Raw(b"payload"))
    found = dissected(tmp_path, [framed(stamp.pack(), packet) for stamp in stamps])
    for stamp, layers in zip(stamps, found, strict=True):
        assert_shown(stamp, layers)
        assert layers["ip"]["ip_ip_dst"] == "10.0.0.2", "the header that next_type names is dissected"
        assert layers["udp"]["udp_udp_dstport"] == "4001"


@pytest.mark.parametrize("place", LEADS)
def test_a_stamp_in_a_tcp_option_is_shown_alike(tmp_path: Path, place: str) -> None:
    told = Stamp(Stage.P2D, Flags.LAST, 0, 7, 8, 9, 3, -5, 1 << 31)
    topology = tor(2, 1)
    frames = [segment(topology, 1, told, family, LEADS[place]) for family in (4, 6)]
    short = segment(topology, 1, None, 4, b"\xfd\x08\x4d\x46" + bytes(4))
    other = segment(topology, 1, None, 4, b"\xfd\x08\x12\x34" + bytes(4))
    *found, cut, foreign = dissected(tmp_path, [bytes(frame) for frame in (*frames, short, other)])
    for layers in found:
        assert_shown(told, layers)
        assert layers["tcp"]["tcp_tcp_dstport"] == "2000"
    assert "mfs_too_short" in json.dumps(cut)
    assert "mfs_mfs" not in json.dumps(foreign)


def assert_shown(stamp: Stamp, layers: dict[str, Any]) -> None:
    fields = {name.removeprefix("mfs_mfs_"): value for name, value in stamp_fields(layers).items()}
    assert int(fields["version"]) == VERSION
    assert int(fields["stage"]) == stamp.stage
    assert int(fields["flags"], 16) == stamp.flags
    assert fields["flags_first"] == bool(stamp.flags & Flags.FIRST)
    assert fields["flags_boundary"] == bool(stamp.flags & Flags.BOUNDARY)
    assert fields["flags_last"] == bool(stamp.flags & Flags.LAST)
    assert int(fields["batch"]) == stamp.batch
    assert int(fields["flow"]) == stamp.flow
    assert int(fields["target_layer"]) == stamp.target_layer
    assert int(fields["current_layer"]) == stamp.current_layer
    assert int(fields["rli"]) == max(0, stamp.target_layer - stamp.current_layer)
    assert int(fields["slack"]) == stamp.slack_us
    assert int(fields["remaining"]) == stamp.remaining
    assert int(fields["remaining_bytes"]) == stamp.remaining * REMAINING_UNIT_BYTES


def stamp_fields(layers: dict[str, Any]) -> dict[str, Any]:
    """The fields of the stamp, which stand below TCP's where an option carries it."""
    fields: dict[str, Any] = layers.get("mfs") or layers["tcp"]["mfs"]
    return fields


def test_invalid_stamps_are_marked(tmp_path: Path) -> None:
    good = Stamp().pack()
    frames = [
        framed(good[: STAMP_BYTES - 1]),
        framed(bytes([2 << 4]) + good[1:]),
        framed(bytes([VERSION << 4 | 9]) + good[1:]),
    ]
    short, version, stage = (json.dumps(layers) for layers in dissected(tmp_path, frames))
    assert "mfs_too_short" in short
    assert "mfs_wrong_version" in version
    assert "mfs_no_stage" in stage
