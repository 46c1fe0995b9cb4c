"""Builds the documentation as a site: ``python docs/build_site.py FOLDER`` (``make docs``).

The pages keep their places in the tree, so that their links hold: README, CONTRIBUTING, CHANGELOG, docs/ and what they
link to. The navigation is that of docs/README.md. A page that it lacks, and a link or an anchor that leads nowhere,
fail the build.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import MkDocsException

ROOT = Path(__file__).parents[1]
INDEX = Path("docs/README.md")
PROJECT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
_LINK = re.compile(r"(?:\]\(|src=\"|srcset=\")([^)\s\"#]+)")
_RUN = re.compile(r"^```(\w+) run$", re.M)
"""Blocks that the tests run; see tests/docs/test_docs.py."""


def gather(folder: Path) -> None:
    """Copy the pages, and the files that they link to, to ``folder``."""
    waiting = [ROOT / name for name in PROJECT] + [ROOT / "docs" / "site.css"]
    waiting += sorted((ROOT / "docs").rglob("*.md"))
    done = set()
    while waiting:
        source = waiting.pop()
        if source in done:
            continue
        done.add(source)
        target = folder / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".md":
            shutil.copyfile(source, target)
            continue
        text = source.read_text("utf-8")
        target.write_text(_RUN.sub(r"```\1", text), "utf-8")
        linked = ((source.parent / link).resolve() for link in _LINK.findall(text) if ":" not in link)
        waiting += [path for path in linked if path.is_file() and path.is_relative_to(ROOT)]


def navigation() -> list[Any]:
    """Return the navigation: the sections of docs/README.md with the pages that they list, and the project's own."""
    listed: list[Any] = ["README.md", {"Documentation": [INDEX.as_posix()]}]
    known = {"README.md", INDEX.as_posix()}
    for line in (ROOT / INDEX).read_text("utf-8").splitlines():
        if line.startswith("## "):
            listed.append({line[3:].partition(":")[0]: []})
        for link in re.findall(r"\]\(([^)#\s]+\.md)", line):
            page = (ROOT / INDEX.parent / link).resolve().relative_to(ROOT).as_posix()
            if page not in known | set(PROJECT):
                known.add(page)
                next(iter(listed[-1].values())).append(page)
    return [*listed, {"Project": list(PROJECT[1:])}]


def main(folder: str) -> int:
    """Build the site in ``folder`` and return the exit status."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    with tempfile.TemporaryDirectory() as pages:
        gather(Path(pages))
        try:
            settings: dict[str, Any] = {"docs_dir": pages, "site_dir": str(Path(folder).resolve()), "strict": True}
            build(load_config(str(ROOT / "docs" / "mkdocs.yml"), nav=navigation(), **settings))
        except MkDocsException as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(f"Site: {folder}/index.html; for the search: {sys.executable} -m http.server --directory {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
