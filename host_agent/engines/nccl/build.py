"""Compile NCCL's profiler plugin: ``python -m host_agent.engines.nccl.build FILE``. Needs a C compiler."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from host_agent.engines.errors import BuildError

SOURCE = Path(__file__).with_name("plugin.c")
COMPILERS = ("cc", "gcc", "clang")
USAGE = """\
Usage: python -m host_agent.engines.nccl.build FILE

Compile the plugin of NCCL's profiler into FILE, such as /usr/local/lib/libnccl-profiler-mfs.so, and set
NCCL_PROFILER_PLUGIN to FILE for the engine."""


def build(library: Path) -> None:
    """Write the plugin as a shared library.

    Raises:
        BuildError: there is no C compiler, or the library cannot be made.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise BuildError("no C compiler is on the PATH; on Debian: apt-get install gcc")
    flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(
        [compiler, *flags, str(SOURCE), "-o", str(library)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"{compiler} cannot make {library}: {done.stderr.strip()}")


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(USAGE)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        build(Path(arguments[0]))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
