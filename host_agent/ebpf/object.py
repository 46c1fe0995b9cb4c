"""The compiled programs as an ELF object: check against the source, and the sections that a loader needs.

The reader covers only clang's output for ``stamp.bpf.c``: 64-bit little-endian ELF, one section per program, map
definitions in the section ``maps``, and relocations that name maps (``R_BPF_64_64``; Documentation/bpf/llvm_reloc.rst).
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path

from host_agent.ebpf.errors import ObjectError

ROOT = Path(__file__).parent
SOURCE = ROOT / "stamp.bpf.c"
LAYOUT = ROOT / "layout.h"
OBJECT = ROOT / "stamp.bpf.o"
MANIFEST = ROOT / "manifest.json"
PROGRAMS = ("egress", "xdp_ingress", "tc_ingress", "tc_strip", "sock_ops")
"""Sections of the programs."""
REBUILD = "with clang installed, run `python -m host_agent.ebpf.build`"

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_MAP = struct.Struct("<5I")
_MAP_REFERENCE = 1
_RELOCATIONS = 9
_SYMBOLS = 2


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map as declared in the source; sizes in bytes, ``kind`` is the kernel's number of the map type."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """A program: its instructions, and the byte offsets at which descriptors of maps belong, with the maps' names."""

    instructions: bytes
    maps: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class BpfObject:
    """Maps and programs of an object; programs by the name of their section."""

    maps: tuple[MapSpec, ...]
    programs: dict[str, ProgramSpec]


def source_hashes() -> dict[str, str]:
    """Return the SHA-256 of each of the object's source files, by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(ROOT.glob("*.[ch]"))}


def load() -> BpfObject:
    """Read the committed object.

    Raises:
        ObjectError: the object is missing, broken, or older than its source.
    """
    try:
        data = OBJECT.read_bytes()
        recorded = json.loads(MANIFEST.read_text("utf-8"))["sources"]
        stale = recorded != source_hashes()
    except (OSError, ValueError, KeyError) as error:
        raise ObjectError(f"the compiled programs cannot be read: {error}; {REBUILD}") from None
    if stale:
        raise ObjectError(f"{OBJECT.name} is older than its source; {REBUILD}")
    return parse(data)


def parse(data: bytes) -> BpfObject:
    """Read an object.

    Raises:
        ObjectError: not an object as clang writes it for BPF.
    """
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError, KeyError) as error:
        raise ObjectError(f"{OBJECT.name} is broken: {error}; {REBUILD}") from None


def _parse(data: bytes) -> BpfObject:
    header = _HEADER.unpack_from(data)
    if header[0][:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    offset, size, count, names_index = header[6], header[11], header[12], header[13]
    sections = [_SECTION.unpack_from(data, offset + index * size) for index in range(count)]
    contents = [data[section[4] : section[4] + section[5]] for section in sections]
    names = [_text(contents[names_index], section[0]) for section in sections]
    symbols_index = next(index for index, section in enumerate(sections) if section[1] == _SYMBOLS)
    strings = contents[sections[symbols_index][6]]
    symbols = list(_SYMBOL.iter_unpack(contents[symbols_index]))
    maps_index = names.index("maps")
    maps = tuple(
        MapSpec(_text(strings, symbol[0]), *_MAP.unpack_from(contents[maps_index], symbol[4]))
        for symbol in symbols
        if symbol[3] == maps_index and symbol[0]
    )
    programs = {}
    for section, content in zip(sections, contents, strict=True):
        if section[1] != _RELOCATIONS or names[section[7]] not in PROGRAMS:
            continue
        references = []
        for place, info in _RELOCATION.iter_unpack(content):
            symbol = symbols[info >> 32]
            if info & 0xFFFFFFFF != _MAP_REFERENCE or symbol[3] != maps_index:
                raise ValueError("a relocation that does not name a map")
            references.append((place, _text(strings, symbol[0])))
        programs[names[section[7]]] = ProgramSpec(contents[section[7]], tuple(references))
    return BpfObject(maps, programs)


def _text(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode()
