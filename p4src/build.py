"""Compile the P4 program: ``python -m p4src.build``, or ``make p4``. Needs p4c's bmv2 backend on the PATH."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from host_agent.level import log2_code
from p4src.artifact import BUILD, MANIFEST, ROOT, source_hashes

COMPILER = "p4c-bm2-ss"
VALUE_BITS = 32
MANTISSA_BITS = 3


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


def compile_program(name: str = "mfs_v1model", source: str = "v1model/mfs.p4") -> None:
    """Compile ``source`` to ``build/NAME.json`` and ``build/NAME.p4info.txtpb`` and record what they were made from.

    Raises:
        FileNotFoundError: the compiler is not on the PATH.
        subprocess.CalledProcessError: the program does not compile.
    """
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise FileNotFoundError(f"{COMPILER} is not on the PATH; see docs/deploy.md for where to get p4c")
    (ROOT / "shared" / "log2_entries.p4").write_text(log2_entries(), "utf-8")
    BUILD.mkdir(exist_ok=True)
    json_path, p4info_path = BUILD / f"{name}.json", BUILD / f"{name}.p4info.txtpb"
    subprocess.run(
        [compiler, "--p4v", "16", "--p4runtime-files", p4info_path.name, "-o", json_path.name, f"../{source}"],
        check=True,
        cwd=BUILD,
    )
    # The compiler records the name its source was given by, nothing else of this machine.
    printed = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
    version = (printed.stdout + printed.stderr).partition("Version ")[2].split()[0]
    MANIFEST.write_text(
        json.dumps({"compiler": {COMPILER: version}, "sources": source_hashes()}, indent=1) + "\n", "utf-8"
    )


def main() -> int:
    """Compile, or say why not."""
    try:
        compile_program()
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {COMPILER} ended with {error.returncode}; its messages are above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
