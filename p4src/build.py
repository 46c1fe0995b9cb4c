"""Compile the P4 program: ``python -m p4src.build``, or ``make p4``.

What can be compiled here is: for v1model with p4c's bmv2 backend, for Tofino with its Tofino backend, each if it is on
the PATH. The rest keeps what the manifest says of it, and is stale if its sources have changed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from host_agent.protocol.level import log2_code
from p4src.artifact import BUILD, MANIFEST, ROOT, TOFINO, TOFINO_2, V1MODEL, source_hashes

V1MODEL_COMPILER = "p4c-bm2-ss"
TOFINO_COMPILER = "p4c-barefoot"
TOFINO_DRIVER = "p4c"
"""Runs the Tofino compiler, the assembler and what else makes a loadable program; needs the compiler beside it."""
CONF_WRITER = "p4c-gen-conf"
NOT_MEANT = {
    "uninitialized-use": "metadata starts as zero (on Tofino by pa_auto_init_metadata) and headers as invalid; what "
    "registers' actions use is set before they run, and what they give is not looked at where they did not",
    "uninitialized-out-param": "as before, of what a parser gives",
    "invalid-header": "on Tofino codes are computed of packets without a stamp too, and not looked at",
}
"""Warnings that are not given, and why each does not apply; docs/reference/tofino.md has those that cannot be
silenced.
"""
VALUE_BITS = 32
MANTISSA_BITS = 3


@dataclass(frozen=True, slots=True)
class Program:
    """An artifact to make: what compiles it (which must be on the PATH), and how."""

    name: str
    compiler: str
    make: Callable[[str, Path], None]


def log2_entries() -> str:
    """The rows of the table ``log2``: a leading one, the three bits below it, and the code they stand for."""
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
    """Compile the sources beside the folder ``build`` to ``NAME.json`` and ``NAME.p4info.txtpb`` in it.

    The compiler records the name its source was given by, nothing else of this machine.
    """
    output = ["--p4runtime-files", f"{name}.p4info.txtpb", "-o", f"{name}.json"]
    subprocess.run([V1MODEL_COMPILER, "--p4v", "16", *_quiet(), *output, "../v1model/mfs.p4"], check=True, cwd=build)


def make_tofino(name: str, build: Path) -> None:
    """Compile the sources beside the folder ``build`` for the chip that ``name`` ends with.

    To ``NAME.p4info.txtpb`` in it, and to its folder ``NAME`` all that is loaded, and the compiler's reports.
    """
    chip = name.partition("_")[2]
    output = [
        *("-o", name, "--bf-rt-schema", f"{name}/bf-rt.json"),
        *("--p4runtime-files", f"{name}.p4info.txtpb", "--p4runtime-force-std-externs"),
        *("--program-name", "mfs", "-g", "--verbose", "1"),
    ]
    target = ["--target", chip, "--arch", "t2na" if chip == "tofino2" else "tna"]
    subprocess.run([TOFINO_DRIVER, *target, *_quiet(), *output, "../tna/mfs.p4"], check=True, cwd=build)
    # The driver of an installed p4c leaves out its last step, the file that names all others.
    conf = ["--conf-type", "BF-RT", "--bfrt-name", f"{name}/bf-rt.json", "--name", "mfs", "--device", chip]
    conf += ["--p4-version", "p4-16", "--outputdir", name, "--pipe", "pipe"]
    subprocess.run([CONF_WRITER, *conf], check=True, cwd=build)


def _quiet() -> list[str]:
    return [f"--Wdisable={warning}" for warning in NOT_MEANT]


PROGRAMS = (
    Program(V1MODEL, V1MODEL_COMPILER, make_v1model),
    Program(TOFINO, TOFINO_COMPILER, make_tofino),
    Program(TOFINO_2, TOFINO_COMPILER, make_tofino),
)


def compile_programs() -> list[str]:
    """Make every program whose compiler is here, and record what it was made from; returns their names.

    Raises:
        FileNotFoundError: no compiler is on the PATH.
        subprocess.CalledProcessError: a program does not compile.
    """
    here = [program for program in PROGRAMS if shutil.which(program.compiler)]
    if not here:
        names = " nor ".join(dict.fromkeys(program.compiler for program in PROGRAMS))
        raise FileNotFoundError(f"neither {names} is on the PATH; see docs/guide/deploy.md for where to get p4c")
    (ROOT / "shared" / "log2_entries.p4").write_text(log2_entries(), "utf-8")
    BUILD.mkdir(exist_ok=True)
    recorded = json.loads(MANIFEST.read_text("utf-8")) if MANIFEST.is_file() else {}
    manifest = {program.name: recorded[program.name] for program in PROGRAMS if program.name in recorded}
    for program in here:
        program.make(program.name, BUILD)
        manifest[program.name] = {
            "compiler": {program.compiler: version(program.compiler)},
            "sources": source_hashes(program.name),
        }
    MANIFEST.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
    return [program.name for program in here]


def version(compiler: str) -> str:
    """The version that ``compiler`` prints, without its build's identity."""
    printed = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
    return (printed.stdout + printed.stderr).partition("Version ")[2].split()[0]


def main() -> int:
    """Compile, or say why not."""
    try:
        made = compile_programs()
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {error.cmd[0]} ended with {error.returncode}; its messages are above", file=sys.stderr)
        return 1
    left = [program.name for program in PROGRAMS if program.name not in made]
    print(f"compiled: {', '.join(made)}" + (f"; no compiler here for: {', '.join(left)}" if left else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
