"""The device config of a program for Tofino, which P4Runtime passes to Stratum, made from the compiler's output.

The compiler writes a file NAME.conf that names its other files: a description of the program's tables (bf-rt.json) and,
for each pipeline, a context (JSON) and a binary.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from mfs_ctrl.errors import TofinoError
from mfs_ctrl.tofino.messages import BfPipelineConfig
from p4src.parser_check import parser_defects

PIPES_MAX = 4
"""Pipes of the largest chips of both generations."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A pipeline: its context (JSON), its binary, and the numbers of the pipes that run it."""

    name: str
    context: bytes
    binary: bytes
    pipe_scope: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """A compiled program; ``bfruntime_info`` is the JSON that describes its tables to BF Runtime."""

    p4_name: str
    bfruntime_info: bytes
    profiles: tuple[Profile, ...]


def read_conf(path: Path) -> DeviceConfig:
    """Return the program that the compiler's NAME.conf describes.

    Its files are looked up under the recorded paths and, in case the folder was moved, relative to NAME.conf.

    Raises:
        TofinoError: the file is not a NAME.conf, describes several programs, or names a file that is missing; or a
            pipeline's assembly, if it is still beside its binary, shows parsers that cannot work.
    """
    try:
        conf = json.loads(path.read_text("utf-8"))
        programs = [program for device in conf["p4_devices"] for program in device["p4_programs"]]
        (program,) = programs
        name, pipelines = _text(program, "program-name"), program["p4_pipelines"]
        if not pipelines:
            raise ValueError(f"{name} has no pipeline")
        for pipeline in pipelines:
            _check_parsers(path.parent / _text(pipeline, "p4_pipeline_name") / f"{name}.bfa")
        return DeviceConfig(
            name,
            _named(path, _text(program, "bfrt-config")),
            tuple(_profile(path, pipeline) for pipeline in pipelines),
        )
    except OSError as error:
        raise TofinoError(f"{path}: {error.strerror}; pass the NAME.conf in the compiler's output folder") from None
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise TofinoError(
            f"{path} is not a NAME.conf of one program, as the Tofino compiler writes it: {what}"
        ) from None


def _check_parsers(assembly: Path) -> None:
    if assembly.is_file() and (defects := parser_defects(assembly.read_text("utf-8", "replace"))):
        raise TofinoError(
            f"{assembly}: {'; '.join(defects)}; the program would drop every packet. docs/reference/tofino.md names a "
            f"compiler that works"
        )


def _profile(conf: Path, pipeline: Any) -> Profile:
    name = _text(pipeline, "p4_pipeline_name")
    context, binary = (_named(conf, _text(pipeline, kind), name) for kind in ("context", "config"))
    scope = tuple(pipeline["pipe_scope"])
    if not all(isinstance(pipe, int) and 0 <= pipe < PIPES_MAX for pipe in scope):
        raise ValueError(f"pipe_scope of {name} is {list(scope)}; pipes are numbered 0..{PIPES_MAX - 1}")
    return Profile(name, context, binary, scope)


def _text(described: Any, key: str) -> str:
    value = described[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, not a string")
    return value


def _named(conf: Path, name: str, folder: str = "") -> bytes:
    """Return the content of a file that ``conf`` names."""
    candidates = Path(name), conf.parent / name, conf.parent / folder / Path(name).name
    for candidate in candidates:
        if candidate.is_file():
            return candidate.read_bytes()
    raise TofinoError(f"{conf} names {name}, but neither it nor {candidates[-1]} exists; compile the program again")


def to_stratum(config: DeviceConfig) -> bytes:
    """Return ``config`` in Stratum's current format, the protobuf message ``BfPipelineConfig``."""
    message = BfPipelineConfig(p4_name=config.p4_name, bfruntime_info=config.bfruntime_info)
    for profile in config.profiles:
        message.profiles.add(
            profile_name=profile.name,
            context=profile.context,
            binary=profile.binary,
            pipe_scope=profile.pipe_scope,
        )
    return bytes(message.SerializeToString())


def from_stratum(data: bytes) -> DeviceConfig:
    """Return the program in a device config that :func:`to_stratum` made.

    Raises:
        TofinoError: ``data`` is not such a message.
    """
    message = BfPipelineConfig()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise TofinoError("not a device config for Stratum on Tofino; make one with `mfs tofino pack`") from None
    if not message.profiles:
        raise TofinoError("this device config contains no pipeline; make one that does with `mfs tofino pack`")
    profiles = (
        Profile(item.profile_name, item.context, item.binary, tuple(item.pipe_scope)) for item in message.profiles
    )
    return DeviceConfig(message.p4_name, message.bfruntime_info, tuple(profiles))


def to_pi(config: DeviceConfig) -> bytes:
    """Return ``config`` in the PI library's format: name, binary, context, each preceded by its length (32 bits, LE).

    Raises:
        TofinoError: the program has several pipelines, which that format cannot hold.
    """
    if len(config.profiles) != 1:
        raise TofinoError(
            f"the PI format holds one pipeline, but {config.p4_name} has {len(config.profiles)}; use --format stratum"
        )
    (profile,) = config.profiles
    parts = config.p4_name.encode(), profile.binary, profile.context
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def unpack(config: DeviceConfig, folder: Path) -> list[Path]:
    """Write the files in ``config`` to ``folder``; return their paths.

    Raises:
        TofinoError: the name of a pipeline is not a valid name of a folder.
        OSError: the folder cannot be written to.
    """
    files = {folder / "bf-rt.json": config.bfruntime_info}
    for profile in config.profiles:
        if profile.name in ("", ".", "..") or "/" in profile.name:
            raise TofinoError(f"the pipeline name {profile.name!r} is not a valid name of a folder")
        files[folder / profile.name / "context.json"] = profile.context
        files[folder / profile.name / "tofino.bin"] = profile.binary
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return list(files)
