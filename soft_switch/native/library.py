"""Compiles C to shared libraries, which are kept in the user's cache directory."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from soft_switch.native.errors import NativeError

COMPILERS = ("cc", "gcc", "clang")
OPTIONS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-w")
COMPILE_S = 300
"""Time limit of the compiler, in seconds."""
RUNTIME = Path(__file__).with_name("runtime.h")
CACHE_VARIABLE = "MFS_CACHE_DIR"
FUNCTIONS = """
uint64_t pipeline_rid_at(void);
uint64_t pipeline_priority_at(void);
uint64_t pipeline_state_bytes(void);
void pipeline_put(uint64_t *slots, uint64_t slot_mask, const uint64_t *key, uint64_t words, uint64_t number);
uint64_t pipeline_search(const struct table *t, const uint64_t *key, uint64_t words);
int64_t pipeline_ingress(struct pipeline *s, uint64_t port, const uint8_t *data, uint64_t n, uint64_t now_ns,
                         const uint64_t *again);
int64_t pipeline_egress(struct pipeline *s, const uint8_t *state, const uint8_t *data, uint64_t n, uint64_t port,
                        uint64_t enqueued_ns, uint64_t dequeued_ns, uint64_t depths);
"""
"""The functions of every library, for cffi."""
_TYPES = re.compile(
    r"^(?:typedef u?int\d+_t (?:[ui]\d+|\(\*call_python\)\([^)]*\));|struct (?:column|group|table|pipeline) \{.*?\};)$",
    re.MULTILINE | re.DOTALL,
)
"""What cffi must know of ``runtime.h``, whose other parts it cannot read."""


@functools.cache
def interface() -> Any:
    """Return the foreign function interface, with the types of ``runtime.h`` and :data:`FUNCTIONS`.

    Raises:
        NativeError: cffi is not installed.
    """
    types = _TYPES.findall(RUNTIME.read_text("utf-8"))
    return declared("\n".join([*types, FUNCTIONS]))


def declared(declarations: str) -> Any:
    """Return a foreign function interface with the given declarations.

    Raises:
        NativeError: cffi is not installed.
    """
    try:
        from cffi import FFI
    except ImportError as error:
        raise NativeError("cffi is not installed; pip install cffi") from error
    ffi = FFI()
    ffi.cdef(declarations)
    return ffi


def compiler() -> list[str]:
    """Return the command of the C compiler: ``CC`` if that is set, else the first of :data:`COMPILERS` on the PATH.

    Raises:
        NativeError: no compiler is installed.
    """
    words = shlex.split(os.environ.get("CC", ""))
    for command in [words] if words else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    what = f"C compiler {words[0]!r} (from CC)" if words else f"C compiler ({', '.join(COMPILERS)})"
    raise NativeError(f"no {what} on the PATH; install one (Debian: apt-get install gcc)")


def cache_folder() -> Path:
    """Return where libraries are kept: ``MFS_CACHE_DIR``, else a folder in the user's cache directory."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mfs-switch"


def load_pipeline(source: str) -> Any:
    """Load the library of a translated pipeline; see :func:`load`."""
    return load(interface(), f"{RUNTIME.read_text()}\n{source}")


def load(ffi: Any, text: str) -> Any:
    """Load the library of a source; compile it first unless it is cached. Safe for concurrent processes.

    Raises:
        NativeError: cffi or a compiler is missing, or the compiler fails.
    """
    command = [*compiler(), *OPTIONS]
    name = hashlib.sha256("\0".join([*command, os.uname().machine, sys.platform, text]).encode()).hexdigest()[:32]
    with contextlib.suppress(OSError):
        path = cache_folder() / f"{name}.so"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _compile(command, text, path)
        return ffi.dlopen(str(path))
    # The cache cannot be written: a library for this process alone. Once loaded, its file is not needed.
    with tempfile.TemporaryDirectory(prefix="mfs-switch-") as folder:
        path = Path(folder) / f"{name}.so"
        _compile(command, text, path)
        return ffi.dlopen(str(path))


def _compile(command: list[str], text: str, path: Path) -> None:
    descriptor, made = tempfile.mkstemp(suffix=".so", prefix=path.stem, dir=path.parent)
    os.close(descriptor)
    try:
        done = subprocess.run(
            [*command, "-x", "c", "-o", made, "-"],
            input=text,
            capture_output=True,
            text=True,
            timeout=COMPILE_S,
            check=False,
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise NativeError(f"{command[0]} failed: {first or f'exit status {done.returncode}'}")
        # Other processes see the complete library or none.
        Path(made).replace(path)
    except subprocess.TimeoutExpired as error:
        raise NativeError(f"{command[0]} took longer than {COMPILE_S} s") from error
    finally:
        Path(made).unlink(missing_ok=True)
