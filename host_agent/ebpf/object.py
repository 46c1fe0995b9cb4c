"""The compiled programs as an ELF object: whether it belongs to its source, and the sections a loader needs.

Only what clang makes of ``stamp.bpf.c`` is understood: 64-bit little-endian ELF, programs in sections of their own, map
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
CONSTANTS = ROOT / "constants.h"
OBJECT = ROOT / "stamp.bpf.o"
MANIFEST = ROOT / "manifest.json"
REBUILD = "run `python -m host_agent.ebpf.build` where clang is installed"

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
    """A map as the source declares it; sizes in bytes, ``kind`` the kernel's number of its type."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """Instructions, and at which byte of them the descriptor of which map belongs."""

    instructions: bytes
    maps: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class BpfObject:
    """All of an object that is loaded, programs by the name of their section."""

    maps: tuple[MapSpec, ...]
    programs: dict[str, ProgramSpec]


def source_hashes() -> dict[str, str]:
    """SHA-256 of what the object is made of, by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(ROOT.glob("*.[ch]"))}


def load() -> BpfObject:
    """The committed object.

    Raises:
        ObjectError: missing, broken, or older than the source beside it.
    """
    try:
        data = OBJECT.read_bytes()
        recorded = json.loads(MANIFEST.read_text("utf-8"))["sources"]
        stale = recorded != source_hashes()
    except (OSError, ValueError, KeyError) as error:
        raise ObjectError(f"no compiled programs: {error}; {REBUILD}") from None
    if stale:
        raise ObjectError(f"{OBJECT.name} is older than its source; {REBUILD}")
    return parse(data)


def parse(data: bytes) -> BpfObject:
    """Read an object.

    Raises:
        ObjectError: this is no object as clang makes it for BPF.
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
        if section[1] != _RELOCATIONS or not names[section[7]].endswith("gress"):
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
