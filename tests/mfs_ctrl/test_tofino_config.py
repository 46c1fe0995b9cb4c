"""The device config for Tofino: its formats byte for byte, and the commands that pack and unpack it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mfs_ctrl.cli import mfs
from mfs_ctrl.errors import TofinoError
from mfs_ctrl.tofino.device_config import DeviceConfig, Profile, from_stratum, read_conf, to_pi, to_stratum

TABLES = b'{"tables": []}'
CONTEXT = b'{"program_name": "mfs"}'
BINARY = bytes(range(256)) * 2


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of the protobuf wire format."""
    return varint(number << 3 | 2) + varint(len(data)) + data


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """The output folder of the compiler, with the paths that it was called with."""
    return compiler_output(tmp_path, str(tmp_path))


def compiler_output(folder: Path, written_as: str) -> Path:
    (folder / "pipe").mkdir(parents=True)
    (folder / "bf-rt.json").write_bytes(TABLES)
    (folder / "pipe/context.json").write_bytes(CONTEXT)
    (folder / "pipe/tofino.bin").write_bytes(BINARY)
    pipeline = {
        "p4_pipeline_name": "pipe",
        "context": f"{written_as}/pipe/context.json",
        "config": f"{written_as}/pipe/tofino.bin",
        "pipe_scope": [0, 1, 2, 3],
        "path": written_as,
    }
    program = {
        "program-name": "mfs",
        "bfrt-config": f"{written_as}/bf-rt.json",
        "model_json_path": f"{written_as}/share/mfs/aug_model.json",
        "p4_pipelines": [pipeline],
    }
    path = folder / "mfs.conf"
    path.write_text(json.dumps({"chip_list": [{}], "p4_devices": [{"device-id": 0, "p4_programs": [program]}]}))
    return path


def test_the_stratum_format_byte_for_byte(conf: Path) -> None:
    profile = field(1, b"pipe") + field(2, CONTEXT) + field(3, BINARY) + field(4, bytes([0, 1, 2, 3]))
    assert to_stratum(read_conf(conf)) == field(1, b"mfs") + field(2, TABLES) + field(3, profile)


def test_the_pi_format_byte_for_byte(conf: Path) -> None:
    expected = b"\3\0\0\0mfs" + b"\0\2\0\0" + BINARY + struct.pack("<I", len(CONTEXT)) + CONTEXT
    assert to_pi(read_conf(conf)) == expected


def test_the_compilers_folder_may_have_been_moved(tmp_path: Path) -> None:
    here = compiler_output(tmp_path / "here", str(tmp_path / "here"))
    moved = compiler_output(tmp_path / "moved", "/nowhere/build")
    assert read_conf(moved) == read_conf(here)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("program-name",), 5, "program-name is 5, not a string"),
        (("bfrt-config",), None, "bfrt-config is None, not a string"),
        (("p4_pipelines",), [], "mfs has no pipeline"),
        (("p4_pipelines", 0, "config"), 1, "config is 1, not a string"),
        (
            ("p4_pipelines", 0, "pipe_scope"),
            [0, -1],
            r"pipe_scope of pipe is \[0, -1\]; pipes are numbered 0\.\.3",
        ),
        (("p4_pipelines", 0, "pipe_scope"), ["all"], "pipe_scope of pipe"),
    ],
)
def test_a_conf_with_a_wrong_value_is_refused(
    conf: Path, where: tuple[str | int, ...], value: object, words: str
) -> None:
    text = json.loads(conf.read_text())
    holder = text["p4_devices"][0]["p4_programs"][0]
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    conf.write_text(json.dumps(text))
    with pytest.raises(TofinoError, match=rf"is not a NAME\.conf of one program.*{words}"):
        read_conf(conf)


def test_a_file_of_another_kind_is_refused_with_a_short_message(tmp_path: Path) -> None:
    path = tmp_path / "tofino.bin"
    path.write_bytes(BINARY * 8)
    with pytest.raises(TofinoError, match=r"tofino\.bin is not a NAME\.conf") as refused:
        read_conf(path)
    assert len(str(refused.value)) < 300


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=8)
profiles = st.builds(
    Profile, names, st.binary(), st.binary(), st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple)
)


@given(st.builds(DeviceConfig, names, st.binary(), st.lists(profiles, min_size=1, max_size=3).map(tuple)))
def test_unpacking_a_packed_config_returns_it(config: DeviceConfig) -> None:
    assert from_stratum(to_stratum(config)) == config


def test_pack_and_unpack_from_the_command_line(conf: Path, tmp_path: Path) -> None:
    packed, out = tmp_path / "mfs.pb", tmp_path / "out"
    done = CliRunner().invoke(mfs, ["tofino", "pack", str(conf), "--out", str(packed)], catch_exceptions=False)
    assert done.output == f"{packed}: mfs, 1 pipelines, {packed.stat().st_size:,} bytes\n"
    done = CliRunner().invoke(mfs, ["tofino", "unpack", str(packed), "--out", str(out)], catch_exceptions=False)
    assert done.output.split() == [str(out / name) for name in ("bf-rt.json", "pipe/context.json", "pipe/tofino.bin")]
    for name in ("bf-rt.json", "pipe/context.json", "pipe/tofino.bin"):
        assert (out / name).read_bytes() == (conf.parent / name).read_bytes()


def test_a_program_whose_parser_cannot_work_is_not_packed(conf: Path) -> None:
    """Its assembly, beside its binary, has only rows that match anything."""
    (conf.parent / "pipe/mfs.bfa").write_text("parser ingress:\n  states:\n    start:\n      *:\n        next: end\n")
    with pytest.raises(TofinoError, match=r"mfs\.bfa: no state of the ingress parser matches on a value.*drop every"):
        read_conf(conf)


def test_a_missing_file_is_named(conf: Path) -> None:
    (conf.parent / "pipe/tofino.bin").unlink()
    with pytest.raises(TofinoError, match=r"mfs\.conf names .*/pipe/tofino\.bin, but neither it nor"):
        read_conf(conf)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"p4_devices": []}', '{"p4_program_list": [{"instance": 0}]}'])
def test_a_file_that_is_not_a_conf_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mfs.conf"
    path.write_text(text)
    with pytest.raises(TofinoError, match=r"is not a NAME\.conf of one program"):
        read_conf(path)
    with pytest.raises(TofinoError, match=r"none\.conf: No such file"):
        read_conf(tmp_path / "none.conf")


@pytest.mark.parametrize("data", [b"", b"\xff", b'{"meta": 1}', field(1, b"mfs")])
def test_bytes_that_are_not_a_device_config_are_refused(data: bytes) -> None:
    with pytest.raises(TofinoError, match="mfs tofino pack"):
        from_stratum(data)


def test_several_pipelines_do_not_fit_the_pi_format(conf: Path) -> None:
    config = read_conf(conf)
    with pytest.raises(TofinoError, match="one pipeline, but mfs has 2"):
        to_pi(DeviceConfig(config.p4_name, b"", config.profiles * 2))


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_pipeline_cannot_write_outside_the_folder(tmp_path: Path, name: str) -> None:
    from mfs_ctrl.tofino.device_config import unpack

    with pytest.raises(TofinoError, match="not a valid name of a folder"):
        unpack(DeviceConfig("mfs", b"", (Profile(name, b"", b"", ()),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
