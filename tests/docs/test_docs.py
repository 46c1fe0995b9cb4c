"""README and docs are correct: links lead somewhere, commands parse, Python blocks and blocks marked ``run`` run.

Two marks steer this, in a comment on the line above a block: ``<!-- not run: REASON -->`` leaves a Python block out. A
fenced block of the language ``sh run`` is executed in the root of the checkout, with this checkout's ``mfs``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mfs_ctrl.cli import mfs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S
)
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_.]+$|\.\.\.$|…$")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(language: str) -> Iterator[pytest.param]:  # type: ignore[valid-type]
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in _FENCE.finditer(text):
            if found["language"].strip() == language:
                line = text.count("\n", 0, found.start("body"))
                marks = [pytest.mark.skip(reason=found["reason"])] if found["reason"] else []
                yield pytest.param(page, found["body"], id=f"{name_of(page)}:{line}", marks=marks)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\s\"]+)", page.read_text("utf-8"))
    local = [target.partition("#")[0] for target in targets if not re.match(r"\w+:|#", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_page_is_linked_from_the_readme_or_from_the_index_of_docs() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in (ROOT / "README.md", index)
        for target in re.findall(r"\]\(([^)\s]+\.md[^)\s]*)\)", page.read_text("utf-8"))
    }
    assert [name_of(page) for page in PAGES if page not in linked | {ROOT / "README.md", index}] == []


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    """Command lines of ``mfs`` on ``page``, and whether each is complete, in a block, or part of running text."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if matched := re.match(r"^(?:    |#  ?|\$ |)\s*(?:[#$] )?(?:sudo )?(?:\.venv/bin/)?(mfs [a-z].*)$", line):
            yield matched[1], True
        else:
            for span in re.findall(r"`(mfs [a-z][^`]*)`", line):
                yield span, False


def parse(line: str) -> None:
    """Resolve the subcommand and its options as click would, without running it."""
    command: click.Command = mfs
    rest = shlex.split(line, comments=True)[1:]
    rest = [word for word in rest if word not in ("&", "|") and not word.startswith((">", "2>"))]
    context = command.make_context("mfs", rest, resilient_parsing=True)
    while isinstance(command, click.Group):
        if not rest or _PLACEHOLDER.match(rest[0]):
            return
        if rest[0].startswith("-"):
            if command.invoke_without_command:
                break
            command.make_context("mfs", rest, resilient_parsing=True)
            return
        found = command.get_command(context, rest[0])
        assert found is not None, f"there is no command {rest[0]!r}"
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if re.match(r"--?[a-zA-Z]", word) and not re.match(r"-\d", word):
            assert word.partition("=")[0] in known | {"-h", "--help"}, f"{word} is not one of its options"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = []
    for line, _ in commands(page):
        try:
            parse(line)
        except (AssertionError, click.ClickException, ValueError) as error:
            wrong.append(f"{line}: {error}")
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize(("page", "body"), list(blocks("python")))
def test_python_blocks_run(page: Path, body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", body],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{name_of(page)}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize(("page", "body"), list(blocks("sh run")))
def test_shell_blocks_marked_run_run(page: Path, body: str, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "mfs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from mfs_ctrl.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", body],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{folder}:{os.environ['PATH']}", "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{name_of(page)}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"


def test_every_threat_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "reference" / "threats.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| threat")]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", row)
        assert named, row
        for path, parts in named:
            text = (ROOT / path).read_text("utf-8")
            for part in parts.split("::")[1:]:
                assert re.search(rf"^ *(?:def|class) {part}\b", text, re.M), (path, part)
