"""Compiles the P4 program with the compilers on the PATH: p4c's bmv2 backend for v1model, its Tofino backend.

The manifest keeps its entries for artifacts whose compiler is missing; they become stale if their sources change.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from host_agent.protocol.errors import MfsError
from host_agent.protocol.level import log2_code
from p4src.artifact import BUILD, MANIFEST, ROOT, TOFINO, TOFINO_2, V1MODEL, source_hashes
from p4src.parser_check import parser_defects

V1MODEL_COMPILER = "p4c-bm2-ss"
TOFINO_COMPILER = "p4c-barefoot"
TOFINO_DRIVER = "p4c"
"""Runs the Tofino compiler, the assembler and the other steps that make a loadable program."""
CONF_WRITER = "p4c-gen-conf"
TOFINO_SOURCE = "mfs_without_rdma.p4"
"""The program for Tofino. ``mfs.p4`` beside it also has registered flows of RoCEv2, which are not placed yet
(docs/reference/tofino.md)."""
DISABLED_WARNINGS = {
    "uninitialized-use": "metadata is initially zero (on Tofino by pa_auto_init_metadata) and headers are invalid; the "
    "inputs of register actions are set before they run, and their outputs are used only where they ran",
    "uninitialized-out-param": "as uninitialized-use, for the results of a parser",
    "unused": "constants of what one of the programs leaves out",
    "invalid-header": "on Tofino, codes are computed for packets without a stamp as well, but not used",
}
"""Disabled warnings, and why each does not apply; docs/reference/tofino.md lists those that cannot be disabled."""
VALUE_BITS = 32
MANTISSA_BITS = 3


class CompilerError(MfsError):
    """There is no compiler for the P4 program, or it failed."""


@dataclass(frozen=True, slots=True)
class Program:
    """An artifact, the compiler that makes it, and the function that runs the compiler."""

    name: str
    compiler: str
    make: Callable[[str, Path], None]


def log2_entries() -> str:
    """Return the const entries of the table ``log2``: a leading one and the three bits below it, mapped to a code."""
    rows = []
    for exponent in range(VALUE_BITS - 1, 0, -1):
        kept = min(MANTISSA_BITS, exponent)
        shift = exponent - kept
        for mantissa in range((1 << kept) - 1, -1, -1):
            value = (1 << kept | mantissa) << shift
            mask = (1 << VALUE_BITS) - (1 << shift)
            rows.append(f"            32w0x{value:08x} &&& 32w0x{mask:08x} : set_code({log2_code(value)});\n")
    return "".join(rows)


def make_v1model(name: str, build: Path) -> None:
    """Compile the sources next to the folder ``build`` to ``NAME.json`` and ``NAME.p4info.txtpb`` in it.

    The source is given by a relative path because the compiler records it; the output is the same on every machine.
    """
    output = ["--p4runtime-files", f"{name}.p4info.txtpb", "-o", f"{name}.json"]
    subprocess.run([V1MODEL_COMPILER, "--p4v", "16", *_quiet(), *output, "../v1model/mfs.p4"], check=True, cwd=build)


def make_tofino(name: str, build: Path) -> None:
    """Compile :data:`TOFINO_SOURCE`, next to the folder ``build``, for the chip that ``name`` ends with.

    The output is ``NAME.p4info.txtpb`` in ``build``, and the loadable files and reports in its folder ``NAME``.

    Raises:
        CompilerError: the compiler made parsers that cannot work.
    """
    chip = name.partition("_")[2]
    output = [
        *("-o", name, "--bf-rt-schema", f"{name}/bf-rt.json"),
        *("--p4runtime-files", f"{name}.p4info.txtpb", "--p4runtime-force-std-externs"),
        *("--program-name", "mfs", "-g", "--verbose", "1"),
    ]
    target = ["--target", chip, "--arch", "t2na" if chip == "tofino2" else "tna"]
    subprocess.run([TOFINO_DRIVER, *target, *_quiet(), *output, f"../tna/{TOFINO_SOURCE}"], check=True, cwd=build)
    # The driver of an installed p4c omits its last step, which writes the file that names all others.
    conf = ["--conf-type", "BF-RT", "--bfrt-name", f"{name}/bf-rt.json", "--name", "mfs", "--device", chip]
    conf += ["--p4-version", "p4-16", "--outputdir", name, "--pipe", "pipe"]
    subprocess.run([CONF_WRITER, *conf], check=True, cwd=build)
    defects = parser_defects((build / name / "pipe" / "mfs.bfa").read_text("utf-8"))
    if defects:
        raise CompilerError(
            f"{TOFINO_COMPILER} miscompiles the parser of {name} ({'; '.join(defects)}), so that it would drop every "
            f"packet; docs/reference/tofino.md names a compiler that does not"
        )


def _quiet() -> list[str]:
    return [f"--Wdisable={warning}" for warning in DISABLED_WARNINGS]


PROGRAMS = (
    Program(V1MODEL, V1MODEL_COMPILER, make_v1model),
    Program(TOFINO, TOFINO_COMPILER, make_tofino),
    Program(TOFINO_2, TOFINO_COMPILER, make_tofino),
)


def compile_programs() -> list[str]:
    """Compile each program whose compiler is on the PATH, and record its sources; return the programs' names.

    Raises:
        CompilerError: no compiler is on the PATH, or a program does not compile.
    """
    here = [program for program in PROGRAMS if shutil.which(program.compiler)]
    if not here:
        names = " nor ".join(dict.fromkeys(program.compiler for program in PROGRAMS))
        raise CompilerError(f"neither {names} is on the PATH; docs/guide/deploy.md says how to get p4c")
    (ROOT / "shared" / "log2_entries.p4").write_text(log2_entries(), "utf-8")
    BUILD.mkdir(exist_ok=True)
    recorded = json.loads(MANIFEST.read_text("utf-8")) if MANIFEST.is_file() else {}
    manifest = {program.name: recorded[program.name] for program in PROGRAMS if program.name in recorded}
    for program in here:
        try:
            program.make(program.name, BUILD)
        except subprocess.CalledProcessError as error:
            raise CompilerError(f"{error.cmd[0]} failed with exit status {error.returncode}; see its output") from None
        manifest[program.name] = {
            "compiler": {program.compiler: version(program.compiler)},
            "sources": source_hashes(program.name),
        }
    MANIFEST.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
    return [program.name for program in here]


def version(compiler: str) -> str:
    """Return the version that ``compiler`` prints, without the build id."""
    printed = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
    return (printed.stdout + printed.stderr).partition("Version ")[2].split()[0]


@click.command("build")
def build_command() -> None:
    """Compile the P4 program.

    Uses the compilers on the PATH: p4c-bm2-ss for v1model, p4c-barefoot for Tofino. The results replace those in
    p4src/build; commit them together with the sources.
    """
    try:
        made = compile_programs()
    except CompilerError as error:
        raise click.ClickException(str(error)) from None
    left = [program.name for program in PROGRAMS if program.name not in made]
    click.echo(f"compiled: {', '.join(made)}" + (f"; no compiler for: {', '.join(left)}" if left else ""))


if __name__ == "__main__":
    build_command()
