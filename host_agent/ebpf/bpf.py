"""The system call bpf(2), as far as the agent needs it: maps, programs, run-time statistics.

Numbers and structures are those of ``linux/bpf.h``. Maps and programs exist until their last reference is gone: an open
descriptor, which the end of the process closes, or a hook.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from host_agent.ebpf.errors import KernelError
from host_agent.ebpf.object import BpfObject, MapSpec, ProgramSpec

_SYSCALLS = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROGRAM_LOAD = 0, 1, 2, 3, 4, 5
_ATTACH, _DETACH, _QUERY, _TYPES_LOAD = 8, 9, 16, 18
_TEST_RUN, _PROGRAM_BY_ID, _MAP_BY_ID, _INFO, _ENABLE_STATISTICS = 10, 13, 14, 15, 32
_PERCPU_ARRAY = 6
_SOCKET_STORAGE = 24
_MAP_DESCRIPTOR = 1
_INSTRUCTION_BYTES = 8
_LICENSE = b"Apache-2.0\0"
_LOG_BYTES = 1 << 20
_INFO_BYTES = 232
_PROGRAM_INFO = struct.Struct("<4xI8s36xIQ16s")
_RUN_TIME_OFFSET = 192
_MAP_INFO = struct.Struct("<I4x4I16s")
_MAPS_MAX = 32
_ATTACHED_MAX = 64
_TO_SOCKETS = 3
_AMONG_OTHERS = 1 << 1

EGRESS = "mfs_egress"
XDP_INGRESS = "mfs_xdp_ingress"
TC_INGRESS = "mfs_tc_ingress"
TC_STRIP = "mfs_tc_strip"
SOCK_OPS = "mfs_sock_ops"
"""Names of the programs in the kernel, at most 15 letters."""
SCHED_CLS = 3
XDP = 6
SOCKETS = 13
_XDP_HAS_FRAGS = 1 << 5

_libc = ctypes.CDLL(None, use_errno=True)


def _call(command: int, attributes: bytes) -> int:
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise KernelError(f"the agent supports {' and '.join(_SYSCALLS)}, but this machine is {platform.machine()}")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    done = int(_libc.syscall(number, command, buffer, len(attributes)))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _explained(error: OSError, what: str) -> KernelError:
    if error.errno == errno.EPERM:
        return KernelError(f"{what}: not permitted; run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN")
    if error.errno == errno.ENOSYS:
        return KernelError(f"{what}: this kernel has no bpf(2); it needs CONFIG_BPF_SYSCALL")
    return KernelError(f"{what}: {error.strerror}")


class Map:
    """A map in the kernel. Keys and values are bytes, of the sizes in ``spec``."""

    def __init__(self, spec: MapSpec, descriptor: int | None = None) -> None:
        """Create the map, or use the existing one of ``descriptor``.

        Raises:
            KernelError: not permitted, or the kernel does not support the map type.
        """
        self.spec = spec
        self._copies = processors() if spec.kind == _PERCPU_ARRAY else 1
        if descriptor is not None:
            self.descriptor = descriptor
            return
        attributes = struct.pack("<5I", spec.kind, spec.key_bytes, spec.value_bytes, spec.entries, spec.flags)
        attributes += struct.pack("<II16sI", 0, 0, spec.name.encode(), 0)
        try:
            with _types(spec) as types:
                self.descriptor = _call(_MAP_CREATE, attributes + types)
        except OSError as error:
            raise _explained(error, f"creating the BPF map {spec.name}") from None

    @classmethod
    def of_id(cls, number: int) -> Map:
        """Open the map with this id.

        Raises:
            KernelError: not permitted, or the map no longer exists.
        """
        try:
            descriptor = _call(_MAP_BY_ID, struct.pack("<III", number, 0, 0))
            kind, key_bytes, value_bytes, entries, flags, name = _MAP_INFO.unpack_from(_info(descriptor).raw)
        except OSError as error:
            raise _explained(error, f"finding the BPF map {number}") from None
        return cls(MapSpec(name.rstrip(b"\0").decode(), kind, key_bytes, value_bytes, entries, flags), descriptor)

    def _element(self, key: bytes, value: ctypes.Array[ctypes.c_char] | None = None, flags: int = 0) -> bytes:
        self._key = ctypes.create_string_buffer(key, self.spec.key_bytes)
        return struct.pack(
            "<IIQQQ", self.descriptor, 0, _address(self._key), 0 if value is None else _address(value), flags
        )

    def get_all(self, key: bytes) -> list[bytes] | None:
        """Return the values at ``key``, one per processor for a per-CPU map, else one; None if the key is absent."""
        size = -(-self.spec.value_bytes // 8) * 8 if self._copies > 1 else self.spec.value_bytes
        value = ctypes.create_string_buffer(size * self._copies)
        try:
            _call(_LOOKUP, self._element(key, value))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise _explained(error, f"reading the BPF map {self.spec.name}") from None
        return [value.raw[at : at + self.spec.value_bytes] for at in range(0, size * self._copies, size)]

    def get(self, key: bytes) -> bytes | None:
        """Return the value at ``key``, or None."""
        values = self.get_all(key)
        return None if values is None else values[0]

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value at ``key``.

        Raises:
            KernelError: the map is full.
        """
        held = ctypes.create_string_buffer(value, self.spec.value_bytes)
        try:
            _call(_UPDATE, self._element(key, held))
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise KernelError(f"the BPF map {self.spec.name} is full: {self.spec.entries} entries") from None
            raise _explained(error, f"writing the BPF map {self.spec.name}") from None

    def delete(self, key: bytes) -> None:
        """Remove ``key`` if it is present."""
        try:
            _call(_DELETE, self._element(key))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise _explained(error, f"deleting from the BPF map {self.spec.name}") from None

    def keys(self) -> Iterator[bytes]:
        """Iterate over the keys, in no particular order; keys added or removed meanwhile may be missed."""
        key: bytes | None = None
        found = ctypes.create_string_buffer(self.spec.key_bytes)
        while True:
            before = ctypes.create_string_buffer(key, self.spec.key_bytes) if key is not None else None
            attributes = struct.pack(
                "<IIQQ", self.descriptor, 0, 0 if before is None else _address(before), _address(found)
            )
            try:
                _call(_NEXT_KEY, attributes)
            except OSError:
                return
            key = found.raw
            yield key

    def view(self) -> memoryview:
        """Return the values of an array made with ``BPF_F_MMAPABLE``, as memory shared with the programs.

        Each value starts at a multiple of its size, rounded up to 8 bytes. The view outlives the descriptor.

        Raises:
            KernelError: the kernel does not share this map (Linux before 5.5).
        """
        size = -(-self.spec.value_bytes // 8) * 8 * self.spec.entries
        try:
            return memoryview(mmap.mmap(self.descriptor, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE))
        except OSError as error:
            raise _explained(error, f"sharing the BPF map {self.spec.name}") from None

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


@contextlib.contextmanager
def _types(spec: MapSpec) -> Iterator[bytes]:
    """Provide the attributes that tell the kernel the types of key and value, where it insists on them."""
    if spec.kind != _SOCKET_STORAGE:
        yield b""
        return
    # Documentation/bpf/btf.rst: an int of 32 bits, and a struct of which only the size is told.
    kinds = struct.pack("<4I", 1, 1 << 24, 4, 1 << 24 | 32) + struct.pack("<3I", 0, 4 << 24, spec.value_bytes)
    names = b"\0int\0"
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(kinds), len(kinds), len(names))
    told = ctypes.create_string_buffer(head + kinds + names, len(head + kinds + names))
    descriptor = _call(_TYPES_LOAD, struct.pack("<QQIII", _address(told), 0, len(told), 0, 0))
    try:
        yield struct.pack("<3I", descriptor, 1, 2)
    finally:
        os.close(descriptor)


def _load(name: str, kind: int, code: bytes, flags: int) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(_LICENSE)
    count = len(code) // _INSTRUCTION_BYTES

    def attributes(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
        level, size, at = (1, len(log), _address(log)) if log is not None else (0, 0, 0)
        begin = struct.pack("<IIQQ", kind, count, _address(instructions), _address(license_))
        return begin + struct.pack("<IIQII16sII", level, size, at, 0, flags, name.encode(), 0, 0)

    try:
        return _call(_PROGRAM_LOAD, attributes(None))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.E2BIG):
            raise
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _call(_PROGRAM_LOAD, attributes(log))
        except OSError as again:
            words = log.value.decode(errors="replace").strip().splitlines()[-5:]
            raise KernelError(
                f"the kernel's verifier rejects the program {name} ({again.strerror}): {' | '.join(words)}"
            ) from None


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """The kernel's description of a program.

    Attributes:
        number: id of the program.
        name: name given when it was loaded.
        tag: hash of the instructions.
        maps: ids of the maps that the program uses.
        run_time_ns, runs: total run time and number of runs while statistics were on (:func:`enable_statistics`).
    """

    number: int
    name: str
    tag: bytes
    maps: tuple[int, ...]
    run_time_ns: int
    runs: int


class Program:
    """A program in the kernel."""

    def __init__(self, descriptor: int) -> None:
        """Use the program of ``descriptor``."""
        self.descriptor = descriptor

    @classmethod
    def of_id(cls, number: int) -> Program:
        """Open the program with this id.

        Raises:
            KernelError: not permitted, or the program no longer exists.
        """
        try:
            return cls(_call(_PROGRAM_BY_ID, struct.pack("<III", number, 0, 0)))
        except OSError as error:
            raise _explained(error, f"finding the program {number}") from None

    @classmethod
    def load(cls, name: str, kind: int, spec: ProgramSpec, maps: dict[str, Map]) -> Program:
        """Load a program of ``kind`` :data:`SCHED_CLS`, :data:`XDP` or :data:`SOCKETS`.

        Raises:
            KernelError: not permitted, or the kernel's verifier rejects the program; the message ends with its log.
        """
        code = bytearray(spec.instructions)
        for place, map_name in spec.maps:
            # The first half of a 64-bit load: the pseudo source register "map descriptor", and the descriptor itself.
            code[place + 1] = (code[place + 1] & 0x0F) | _MAP_DESCRIPTOR << 4
            struct.pack_into("<i", code, place + 4, maps[map_name].descriptor)
        try:
            return cls(_load(name, kind, bytes(code), _XDP_HAS_FRAGS if kind == XDP else 0))
        except OSError as error:
            if kind != XDP or error.errno != errno.EINVAL:
                raise _explained(error, f"loading the program {name}") from None
        # Linux before 5.18 has no XDP on fragmented packets.
        try:
            return cls(_load(name, kind, bytes(code), 0))
        except OSError as error:
            raise _explained(error, f"loading the program {name}") from None

    def run(self, packet: bytes, context: bytes) -> tuple[int, bytes, bytes]:
        """Run the program once on ``packet`` and ``context`` (``struct __sk_buff``, or empty).

        Returns:
            The verdict, and packet and context after the run.

        Raises:
            KernelError: the kernel rejects the packet or the context.
        """
        data = ctypes.create_string_buffer(packet, len(packet))
        out = ctypes.create_string_buffer(len(packet) + 256)
        before = ctypes.create_string_buffer(context, len(context))
        after = ctypes.create_string_buffer(len(context))
        # The kernel rejects an empty context; a null pointer stands for none.
        contexts = (_address(before), _address(after)) if context else (0, 0)
        attributes = ctypes.create_string_buffer(
            struct.pack("<IIIIQQII", self.descriptor, 0, len(packet), len(out), _address(data), _address(out), 1, 0)
            + struct.pack("<IIQQ", len(context), len(context), *contexts),
            80,
        )
        number = _SYSCALLS[platform.machine()]
        if int(_libc.syscall(number, _TEST_RUN, attributes, len(attributes))) < 0:
            code = ctypes.get_errno()
            raise _explained(OSError(code, os.strerror(code)), f"running the program {self.info().name}")
        verdict, _, length = struct.unpack_from("<III", attributes.raw, 4)
        return verdict, out.raw[:length], after.raw

    def info(self) -> ProgramInfo:
        """Return the kernel's description of the program."""
        maps = (ctypes.c_uint32 * _MAPS_MAX)()
        asked = _PROGRAM_INFO.pack(0, b"", _MAPS_MAX, ctypes.addressof(maps), b"")
        info = _info(self.descriptor, asked).raw
        number, tag, count, _, name = _PROGRAM_INFO.unpack_from(info)
        run_time_ns, runs = struct.unpack_from("<QQ", info, _RUN_TIME_OFFSET)
        return ProgramInfo(number, name.rstrip(b"\0").decode(), tag, tuple(maps[:count]), run_time_ns, runs)

    def close(self) -> None:
        """Close the descriptor; the program stays loaded while it is attached."""
        os.close(self.descriptor)


def attach_to_cgroup(program: Program, cgroup: int) -> None:
    """Run ``program`` of the kind :data:`SOCKETS` for all sockets below ``cgroup``, beside the programs of others.

    ``cgroup`` is a descriptor of its directory. The program stays attached when this process ends.

    Raises:
        KernelError: not permitted, or another program wants to be the only one there.
    """
    attributes = struct.pack("<IIIII", cgroup, program.descriptor, _TO_SOCKETS, _AMONG_OTHERS, 0)
    try:
        _call(_ATTACH, attributes)
    except OSError as error:
        if error.errno == errno.EPERM:
            # The right to load programs, which is there, includes this one.
            raise KernelError(
                "another program is to be the only one for the sockets of the cgroup; choose another --cgroup, or use "
                "--carrier shim"
            ) from None
        raise _explained(error, "attaching a program to the cgroup") from None


def detach_from_cgroup(program: Program, cgroup: int) -> None:
    """Undo :func:`attach_to_cgroup`; does nothing where the program is not attached."""
    with contextlib.suppress(OSError):
        _call(_DETACH, struct.pack("<IIIII", cgroup, program.descriptor, _TO_SOCKETS, 0, 0))


def attached_to_cgroup(cgroup: int) -> list[int]:
    """Return the ids of the programs of the kind :data:`SOCKETS` that are attached to ``cgroup`` itself."""
    found = (ctypes.c_uint32 * _ATTACHED_MAX)()
    asked = struct.pack("<IIIIQII", cgroup, _TO_SOCKETS, 0, 0, ctypes.addressof(found), _ATTACHED_MAX, 0)
    buffer = ctypes.create_string_buffer(asked, len(asked))
    if int(_libc.syscall(_SYSCALLS[platform.machine()], _QUERY, buffer, len(asked))) < 0:
        return []
    return list(found[: struct.unpack_from("<I", buffer.raw, 24)[0]])


class Programs:
    """The programs and the maps that they share. An interface needs one of the three ingress programs.

    ``sock_ops`` is None where the kernel does not take it; ``no_option`` says why.
    """

    def __init__(
        self,
        egress: Program,
        xdp_ingress: Program,
        tc_ingress: Program,
        tc_strip: Program,
        sock_ops: Program | None,
        maps: dict[str, Map],
        no_option: str = "",
    ) -> None:
        self.egress = egress
        self.xdp_ingress = xdp_ingress
        self.tc_ingress = tc_ingress
        self.tc_strip = tc_strip
        self.sock_ops = sock_ops
        self.maps = maps
        self.no_option = no_option

    @classmethod
    def load(cls, loaded: BpfObject) -> Programs:
        """Create the maps and load the programs of an object.

        Raises:
            KernelError: the kernel rejects a map or a program.
        """
        maps = {spec.name: Map(spec) for spec in loaded.maps}
        sock_ops, no_option = None, ""
        try:
            sock_ops = Program.load(SOCK_OPS, SOCKETS, loaded.programs["sock_ops"], maps)
        except KernelError as error:
            no_option = f"{error} (the TCP option needs Linux 5.15 and CONFIG_CGROUP_BPF)"
        return cls(
            Program.load(EGRESS, SCHED_CLS, loaded.programs["egress"], maps),
            Program.load(XDP_INGRESS, XDP, loaded.programs["xdp_ingress"], maps),
            Program.load(TC_INGRESS, SCHED_CLS, loaded.programs["tc_ingress"], maps),
            Program.load(TC_STRIP, SCHED_CLS, loaded.programs["tc_strip"], maps),
            sock_ops,
            maps,
            no_option,
        )

    def _all(self) -> list[Program]:
        programs = (self.egress, self.xdp_ingress, self.tc_ingress, self.tc_strip, self.sock_ops)
        return [program for program in programs if program is not None]

    @property
    def tags(self) -> set[bytes]:
        """Tags of these programs, to recognise them in the kernel."""
        return {program.info().tag for program in self._all()}

    def close(self) -> None:
        """Close all descriptors; attached programs and their maps stay."""
        for program in self._all():
            program.close()
        for held in self.maps.values():
            held.close()


def _info(descriptor: int, asked: bytes = b"") -> ctypes.Array[ctypes.c_char]:
    info = ctypes.create_string_buffer(asked, _INFO_BYTES)
    _call(_INFO, struct.pack("<IIQ", descriptor, len(info), _address(info)))
    return info


def enable_statistics() -> int:
    """Make the kernel measure run times of programs.

    Returns:
        A descriptor; measuring ends when it is closed.

    Raises:
        KernelError: not permitted, or Linux before 5.8.
    """
    try:
        return _call(_ENABLE_STATISTICS, struct.pack("<I", 0))
    except OSError as error:
        raise _explained(error, "enabling run-time statistics") from None


def processors() -> int:
    """Return the number of possible processors, which is the number of values per key of a per-CPU map."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        ranges = file.read().strip().split(",")
    return max(int(part.rpartition("-")[2]) for part in ranges) + 1
