"""Pairs of a program and a script in a folder of samples, compiled by p4c and cached."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from soft_switch.backend import Backend
from soft_switch.errors import SwitchError, UnsupportedConstructError
from soft_switch.pipeline import Pipeline
from soft_switch.stf.runner import run_script
from soft_switch.stf.script import ScriptError, parse_script

COMPILER = "p4c-bm2-ss"
COMPILE_SECONDS = 120
_V1MODEL = re.compile(r"include.*v1model\.p4")

PASS, FAIL, UNSUPPORTED = "pass", "fail", "unsupported"


class CompilerError(SwitchError):
    """The compiler is missing, or rejects a program."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a script: ``pass``, ``fail`` or ``unsupported``, and the reason if it is not ``pass``."""

    name: str
    outcome: str
    reason: str = ""

    def row(self) -> dict[str, str]:
        """Return the row for a file of results."""
        return asdict(self)


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Find the programs for v1model that have a script of the same name beside them."""
    pairs = []
    for script in sorted(folder.glob("*.stf")):
        program = script.with_suffix(".p4")
        if program.exists() and _V1MODEL.search(program.read_text(errors="replace")):
            pairs.append((program, script))
    return pairs


class Compiler:
    """p4c's bmv2 backend, with a cache of its output by the hash of the source and the compiler's version."""

    def __init__(self, cache: Path, command: str = COMPILER) -> None:
        """Find the compiler.

        Raises:
            CompilerError: it is not on the PATH.
        """
        if shutil.which(command) is None:
            raise CompilerError(f"{command} is not on the PATH; install p4c, or name the compiler with --compiler")
        self._command = command
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
        self._version = done.stdout.encode()

    def compile(self, program: Path) -> str:
        """Return the JSON of a program.

        Raises:
            CompilerError: the program does not compile; the message has the compiler's first error.
        """
        digest = hashlib.sha256(self._version + program.read_bytes()).hexdigest()[:12]
        kept = self._cache / f"{program.stem}.{digest}.json"
        if not kept.exists():
            made = kept.with_suffix(".tmp")
            command = [self._command, "--arch", "v1model", "-o", str(made), str(program)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_SECONDS)
            except subprocess.TimeoutExpired:
                raise CompilerError(f"{self._command} took more than {COMPILE_SECONDS} s") from None
            if done.returncode or not made.exists():
                errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[:200]]
                raise CompilerError(f"{self._command}: {errors[0]}")
            made.replace(kept)
        return kept.read_text()


def run_pair(name: str, json_text: str | bytes, script: str, backend: Backend = "auto") -> Outcome:
    """Load a compiled program and run a script on it."""
    try:
        statements = parse_script(script)
        pipeline = Pipeline.load(json_text, backend)
        problem = run_script(pipeline, statements)
    except (UnsupportedConstructError, ScriptError) as error:
        return Outcome(name, UNSUPPORTED, str(error))
    except SwitchError as error:
        return Outcome(name, FAIL, str(error))
    return Outcome(name, PASS) if problem is None else Outcome(name, FAIL, problem)


def run_sample(compiler: Compiler, program: Path, script: Path, backend: Backend = "auto") -> Outcome:
    """Compile a program and run its script."""
    try:
        compiled = compiler.compile(program)
    except CompilerError as error:
        return Outcome(script.stem, UNSUPPORTED, str(error))
    return run_pair(script.stem, compiled, script.read_text(), backend)
