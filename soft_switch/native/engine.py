"""Runs a pipeline as machine code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from soft_switch.ir.program import Generated
from soft_switch.model.replication import Ingressed
from soft_switch.native import library
from soft_switch.native.errors import NativeError
from soft_switch.native.functions import PORT_BITS
from soft_switch.native.module import Request, Translated, layout_of
from soft_switch.native.tables import TableImage
from soft_switch.native.translator import translate
from soft_switch.tables.entry import Entry
from soft_switch.tables.table import Table

_DROPPED, _FAULT, _TOO_LONG, _FAILED = -1, -2, -3, -4
_FRAME_BYTES = 16 * 1024
_MANY_CHANGES = 1000
"""A table with more changes than this since the last packet is copied again as a whole."""
_PORT_MASK = (1 << PORT_BITS) - 1


class NativeHandles(NamedTuple):
    """Addresses with which other C code runs a pipeline.

    Attributes:
        pipeline: the pipeline.
        ingress: its function for ingress.
        egress: its function for egress.
        state: the buffer for the state of a packet between the two.
        frame: the buffer for the packet that egress makes.
        state_bytes: size of a state in bytes.
    """

    pipeline: int
    ingress: int
    egress: int
    state: int
    frame: int
    state_bytes: int


class MachineCode:
    """A pipeline that runs as machine code. The state of an :class:`Ingressed` is (a C struct, the packet's bytes).

    Attributes:
        source: the compiled C without its runtime.
        makes_copies: whether the program may copy packets or make them re-enter.
        rid_at: where egress_rid is in the state of a packet: (first byte, bytes). None if it is not in it.
        priority_at: where priority is in the state of a packet, likewise.
        ingress: see :class:`~soft_switch.pipeline.Pipeline`.
        egress: see :class:`~soft_switch.pipeline.Pipeline`.
    """

    def __init__(self, generated: Generated, externs: Mapping[str, Any]) -> None:
        """Translate and compile a program.

        Raises:
            NativeError: the program has no translation, or cannot be compiled here.
        """
        translated = translate(generated)
        self._objects = generated.objects
        self.source = translated.source
        self._externs = externs
        self._requests = translated.requests
        self.makes_copies = any(request.kind in ("clone", "multicast", "again") for request in translated.requests)
        self._ffi: Any = library.interface()
        self._library = library.load_pipeline(translated.source)
        self._error: BaseException | None = None
        self._data = b""
        self._state_bytes = int(self._library.pipeline_state_bytes())
        self._changed: dict[Table, list[Entry] | None] = {}
        self._pipeline = self._set_up(translated)
        self._ready()
        self.rid_at = _place(self._library.pipeline_rid_at, translated.rid_bytes)
        self.priority_at = _place(self._library.pipeline_priority_at, translated.priority_bytes)

    def _set_up(self, translated: Translated) -> Any:
        ffi = self._ffi
        pipeline = ffi.new("struct pipeline *")
        # Views of memory that Python owns: they live as long as this object does.
        views = [ffi.from_buffer("uint64_t[]", words) for words in translated.cells]
        self._cells = (views, ffi.new("uint64_t *[]", views or [ffi.NULL]))
        pipeline.cells = self._cells[1]
        self._tables = ffi.new("struct table[]", max(len(translated.tables), 1))
        pipeline.tables = self._tables
        self._images: dict[Table, TableImage] = {}
        for made, table in zip(self._tables, translated.tables, strict=False):
            self._images[table] = TableImage(ffi, self._library, made, table, layout_of(table))
            table.on_change = self._note
        self._state = ffi.new("uint8_t[]", self._state_bytes)
        pipeline.state = self._state
        if translated.requests:
            try:
                self._callback = ffi.callback("call_python", self._call, error=1)
            except (MemoryError, OSError, SystemError) as error:
                raise NativeError(f"this system does not allow calls from machine code to Python ({error})") from error
            pipeline.call = self._callback
        return pipeline

    def _note(self, table: Table, entry: Entry | None) -> None:
        known = self._changed.setdefault(table, [])
        if entry is None or known is None or len(known) >= _MANY_CHANGES:
            self._changed[table] = None
        else:
            known.append(entry)

    def handles(self, frame_bytes: int) -> NativeHandles:
        """Return the addresses for C code that runs packets of up to ``frame_bytes`` itself.

        Its owner calls :meth:`refresh` before packets run, and keeps this object alive.
        """
        if self._pipeline.frame_bytes < 2 * frame_bytes + _FRAME_BYTES:
            self._ready(2 * frame_bytes + _FRAME_BYTES)

        def address(thing: Any) -> int:
            return int(self._ffi.cast("uintptr_t", thing))

        ingress, egress = (self._ffi.addressof(self._library, name) for name in ("pipeline_ingress", "pipeline_egress"))
        return NativeHandles(
            address(self._pipeline),
            address(ingress),
            address(egress),
            address(self._state),
            address(self._frame),
            self._state_bytes,
        )

    def raise_failure(self) -> None:
        """Raise the error that Python code raised while C ran a packet."""
        self._fail(_FAILED)

    def refresh(self) -> None:
        """Bring the tables up to date."""
        for table, entries in self._changed.items():
            if entries is None:
                self._images[table].copy()
            else:
                self._images[table].follow(entries)
        self._changed.clear()

    def _ready(self, frame_bytes: int = _FRAME_BYTES) -> None:
        """Make the functions that run for every packet; as closures they are fastest."""
        ffi, pipeline, changed, refresh = self._ffi, self._pipeline, self._changed, self.refresh
        run_ingress, run_egress = self._library.pipeline_ingress, self._library.pipeline_egress
        state = ffi.buffer(self._state, self._state_bytes)
        null, new, kind = ffi.NULL, tuple.__new__, Ingressed
        frame = self._make_room(frame_bytes)
        asks = bool(self._requests)

        def ingress(port: int, data: bytes, now_ns: int, again: tuple[int, ...] | None = None) -> Ingressed | None:
            if changed:
                refresh()
            if asks:
                self._data = data
            length = len(data)
            code = run_ingress(pipeline, port, data, length, now_ns, null if again is None else again)
            if code >= 0:
                return new(kind, (code & _PORT_MASK, code >> PORT_BITS, length, (state[:], data)))
            if code != _DROPPED:
                self._fail(code)
            return None

        def egress(
            packet: Ingressed, enqueued_ns: int, dequeued_ns: int, enq_qdepth: int, deq_qdepth: int
        ) -> bytes | None:
            nonlocal frame
            if changed:
                refresh()
            blob, data = packet[3]
            if asks:
                self._data = data
            length = run_egress(
                pipeline,
                blob,
                data,
                len(data),
                packet[0],
                enqueued_ns,
                dequeued_ns,
                enq_qdepth | deq_qdepth << 32,
            )
            if length >= 0:
                out: bytes = frame[:length]
                return out
            if length == _DROPPED:
                return None
            if length == _TOO_LONG:
                frame = self._make_room(2 * (len(data) + pipeline.frame_bytes))
                return egress(packet, enqueued_ns, dequeued_ns, enq_qdepth, deq_qdepth)
            self._fail(length)
            return None

        self.ingress: Callable[..., Ingressed | None] = ingress
        self.egress: Callable[[Ingressed, int, int, int, int], bytes | None] = egress

    def _make_room(self, size: int) -> Any:
        self._frame = self._ffi.new("uint8_t[]", size)
        self._pipeline.frame = self._frame
        self._pipeline.frame_bytes = size
        return self._ffi.buffer(self._frame, size)

    def _fail(self, code: int) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise RuntimeError(f"machine code left its bounds ({code})")

    # ---- requests of C ----

    def _call(self, _: object, what: int, args: Any) -> int:
        request = self._requests[what]
        try:
            return self._answer(request, args)
        except BaseException as error:
            # An exception cannot pass through C.
            self._error = error
            return 1

    def _answer(self, request: Request, args: Any) -> int:
        values, at = [], 0
        for words, signed in request.values:
            number = int.from_bytes(self._ffi.buffer(args + at, 8 * words)[:], "little", signed=signed)
            values.append(number)
            at += words
        externs = self._externs
        if request.kind == "digest":
            externs["digest"](request.fixed[0], tuple(values))
        elif request.kind in ("log", "fail"):
            externs[request.kind](*request.fixed, *values)
        elif request.kind == "randint":
            args[0] = externs["randint"](*values)
        elif request.kind == "member":
            return int(tuple(values) in self._objects[request.fixed[0]])
        elif request.kind == "cut":
            args[0] = len(externs["cut"](values[0], self._data))
        elif request.kind == "cut_end":
            data, args[1] = externs["cut_end"](values[0], self._data, *values[1:])
            args[0] = len(data)
        elif request.kind in ("clone", "multicast"):
            *what, data_length = values
            state = (self._ffi.buffer(self._state, self._state_bytes)[:], self._data[:data_length])
            externs[request.kind](*what, state)
        else:
            port, length, *again = values
            data = self._data if request.fixed[0] == "data" else self._ffi.buffer(self._frame, length)[:]
            externs["again"](port, data, tuple(again))
        return 0


def _place(where: Callable[[], int], size: int | None) -> tuple[int, int] | None:
    return None if size is None else (int(where()), size)


def with_field(state: tuple[Any, ...], where: tuple[int, int], value: int) -> tuple[Any, ...]:
    """Return a packet's state with another value at (first byte, bytes)."""
    begin, size = where
    blob, data = state
    return blob[:begin] + value.to_bytes(size, "little") + blob[begin + size :], data
