"""The system call bpf(2) for what the agent needs of it: maps, programs, pins, run-time statistics.

Numbers and structures are those of ``linux/bpf.h``. Descriptors are closed when the process ends at the latest, and
what they stand for goes with the last reference.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator

from host_agent.ebpf.errors import KernelError
from host_agent.ebpf.object import BpfObject, MapSpec, ProgramSpec

_SYSCALLS = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROGRAM_LOAD, _PIN = 0, 1, 2, 3, 4, 5, 6
_TEST_RUN, _INFO, _ENABLE_STATISTICS = 10, 15, 32
_PERCPU_ARRAY = 6
_MAP_DESCRIPTOR = 1
_INSTRUCTION_BYTES = 8
_LICENSE = b"Apache-2.0\0"
_LOG_BYTES = 1 << 20
_RUN_TIME_OFFSET = 192
_INFO_BYTES = 232

SCHED_CLS = 3
XDP = 6
_XDP_HAS_FRAGS = 1 << 5

_libc = ctypes.CDLL(None, use_errno=True)


def _call(command: int, attributes: bytes) -> int:
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise KernelError(f"eBPF is driven on {' and '.join(_SYSCALLS)} only, and this is {platform.machine()}")
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
    """A map in the kernel. Keys and values are bytes of the sizes that its ``spec`` says."""

    def __init__(self, spec: MapSpec) -> None:
        """Create it.

        Raises:
            KernelError: not permitted, or the kernel lacks the type.
        """
        self.spec = spec
        attributes = struct.pack("<5I", spec.kind, spec.key_bytes, spec.value_bytes, spec.entries, spec.flags)
        attributes += struct.pack("<II16s", 0, 0, spec.name.encode())
        try:
            self.descriptor = _call(_MAP_CREATE, attributes)
        except OSError as error:
            raise _explained(error, f"creating the BPF map {spec.name}") from None
        self._copies = processors() if spec.kind == _PERCPU_ARRAY else 1

    def _element(self, key: bytes, value: ctypes.Array[ctypes.c_char] | None = None, flags: int = 0) -> bytes:
        self._key = ctypes.create_string_buffer(key, self.spec.key_bytes)
        return struct.pack(
            "<IIQQQ", self.descriptor, 0, _address(self._key), 0 if value is None else _address(value), flags
        )

    def get_all(self, key: bytes) -> list[bytes] | None:
        """The values at ``key``, one for each processor if the map is kept by processor; None if there is none."""
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
        """The value at ``key``, or None."""
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
        """Remove ``key``; nothing happens if it is not there."""
        try:
            _call(_DELETE, self._element(key))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise _explained(error, f"deleting from the BPF map {self.spec.name}") from None

    def keys(self) -> Iterator[bytes]:
        """Every key, in no order; keys that come or go meanwhile may be missed."""
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

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


class Program:
    """A program in the kernel."""

    def __init__(self, name: str, kind: int, spec: ProgramSpec, maps: dict[str, Map]) -> None:
        """Load it. ``kind``: :data:`SCHED_CLS` or :data:`XDP`.

        Raises:
            KernelError: not permitted, or the kernel's verifier refuses it; the message has its last words.
        """
        self.name = name
        code = bytearray(spec.instructions)
        for place, map_name in spec.maps:
            # The first half of a 64-bit load: source register "map descriptor", and the descriptor as its value.
            code[place + 1] = (code[place + 1] & 0x0F) | _MAP_DESCRIPTOR << 4
            struct.pack_into("<i", code, place + 4, maps[map_name].descriptor)
        try:
            self.descriptor = self._load(kind, bytes(code), _XDP_HAS_FRAGS if kind == XDP else 0)
        except OSError as error:
            if kind != XDP or error.errno != errno.EINVAL:
                raise _explained(error, f"loading the program {name}") from None
            # Before Linux 5.18: packets in one piece only.
            try:
                self.descriptor = self._load(kind, bytes(code), 0)
            except OSError as again:
                raise _explained(again, f"loading the program {name}") from None

    def _load(self, kind: int, code: bytes, flags: int) -> int:
        instructions = ctypes.create_string_buffer(code, len(code))
        license_ = ctypes.create_string_buffer(_LICENSE)
        count = len(code) // _INSTRUCTION_BYTES

        def attributes(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
            level, size, at = (1, len(log), _address(log)) if log is not None else (0, 0, 0)
            begin = struct.pack("<IIQQ", kind, count, _address(instructions), _address(license_))
            return begin + struct.pack("<IIQII16sII", level, size, at, 0, flags, self.name.encode(), 0, 0)

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
                    f"the kernel's verifier refuses the program {self.name} ({again.strerror}): {' | '.join(words)}"
                ) from None

    def pin(self, path: str) -> None:
        """Give it a name in a mounted bpf file system.

        Raises:
            KernelError: the path is not in one.
        """
        name = ctypes.create_string_buffer(path.encode())
        try:
            _call(_PIN, struct.pack("<QI", _address(name), self.descriptor))
        except OSError as error:
            raise _explained(error, f"pinning the program {self.name}") from None

    def run(self, packet: bytes, context: bytes) -> tuple[int, bytes, bytes]:
        """Run it once on ``packet`` and ``context`` (``struct __sk_buff``, or empty).

        Gives the verdict, and packet and context as they are after it.

        Raises:
            KernelError: the kernel refuses the packet or the context.
        """
        data = ctypes.create_string_buffer(packet, len(packet))
        out = ctypes.create_string_buffer(len(packet) + 256)
        before = ctypes.create_string_buffer(context, len(context))
        after = ctypes.create_string_buffer(len(context))
        # The kernel refuses a context of no bytes, but takes none.
        contexts = (_address(before), _address(after)) if context else (0, 0)
        attributes = ctypes.create_string_buffer(
            struct.pack("<IIIIQQII", self.descriptor, 0, len(packet), len(out), _address(data), _address(out), 1, 0)
            + struct.pack("<IIQQ", len(context), len(context), *contexts),
            80,
        )
        number = _SYSCALLS[platform.machine()]
        if int(_libc.syscall(number, _TEST_RUN, attributes, len(attributes))) < 0:
            code = ctypes.get_errno()
            raise _explained(OSError(code, os.strerror(code)), f"running the program {self.name}")
        verdict, _, length = struct.unpack_from("<III", attributes.raw, 4)
        return verdict, out.raw[:length], after.raw

    def run_time(self) -> tuple[int, int]:
        """Nanoseconds it ran in all, and how often, since statistics were enabled (:func:`enable_statistics`)."""
        info = ctypes.create_string_buffer(_INFO_BYTES)
        _call(_INFO, struct.pack("<IIQ", self.descriptor, len(info), _address(info)))
        run_time_ns, runs = struct.unpack_from("<QQ", info.raw, _RUN_TIME_OFFSET)
        return run_time_ns, runs

    def close(self) -> None:
        """Let go of it; it stays loaded where it is attached."""
        os.close(self.descriptor)


class Programs:
    """Both programs, loaded, with the maps they share."""

    def __init__(self, loaded: BpfObject) -> None:
        """Load ``loaded``.

        Raises:
            KernelError: the kernel refuses a map or a program.
        """
        self.maps = {spec.name: Map(spec) for spec in loaded.maps}
        self.egress = Program("mfs_egress", SCHED_CLS, loaded.programs["egress"], self.maps)
        self.ingress = Program("mfs_ingress", XDP, loaded.programs["ingress"], self.maps)

    def close(self) -> None:
        """Let go of everything."""
        for program in (self.egress, self.ingress):
            program.close()
        for held in self.maps.values():
            held.close()


def enable_statistics() -> int:
    """Have the kernel count run times until the descriptor that this gives is closed.

    Raises:
        KernelError: not permitted, or before Linux 5.8.
    """
    try:
        return _call(_ENABLE_STATISTICS, struct.pack("<I", 0))
    except OSError as error:
        raise _explained(error, "enabling run-time statistics") from None


def processors() -> int:
    """How many processors there can be: as many values has a key of a map kept by processor."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        ranges = file.read().strip().split(",")
    return max(int(part.rpartition("-")[2]) for part in ranges) + 1
