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
        fields = {name.removeprefix("mfs_mfs_"): value for name, value in layers["mfs"].items()}
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
        assert layers["ip"]["ip_ip_dst"] == "10.0.0.2", "the header that next_type names is dissected"
        assert layers["udp"]["udp_udp_dstport"] == "4001"


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
