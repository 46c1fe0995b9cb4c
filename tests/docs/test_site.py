"""The documentation's site: built strictly, complete, and used in a browser as readers do."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.chromium import MISSING, browser

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("material") is None, reason="no mkdocs-material: pip install '.[docs]'"
    ),
]


def build(folder: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "docs" / "build_site.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def page_of(source: Path) -> str:
    name = source.relative_to(ROOT).with_suffix(".html").as_posix()
    return re.sub(r"(^|/)README\.html$", r"\1index.html", name)


def test_the_navigation_reaches_every_page(site: Path) -> None:
    navigation = (site / "index.html").read_text("utf-8").partition('<nav class="md-nav')[2]
    sources = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    assert len(sources) > 30
    assert [page for page in map(page_of, sources) if f'href="{page}" class="md-nav__link"' not in navigation] == []


def test_what_leads_nowhere_and_what_no_one_reaches_fails_the_build(tmp_path: Path) -> None:
    for page in ROOT.glob("*.md"):
        (tmp_path / page.name).write_text("# A page\n", "utf-8")
    (tmp_path / "docs").mkdir()
    for name in ("build_site.py", "mkdocs.yml", "site.css"):
        (tmp_path / "docs" / name).write_bytes((ROOT / "docs" / name).read_bytes())
    wrong = "# Index\n\n[one](none.md) [two](#nowhere) [three](../none)\n"
    (tmp_path / "docs" / "README.md").write_text(wrong, "utf-8")
    (tmp_path / "docs" / "alone.md").write_text("# Alone\n", "utf-8")
    done = build(tmp_path / "out", tmp_path)
    assert done.returncode == 1
    for told in ("'none.md'", "'#nowhere'", "'../none'", "docs/alone.md"):
        assert told in done.stderr


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_readers_search_and_see_pictures_in_both_schemes_and_on_a_phone(address: str) -> None:
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    pictures = "[...document.querySelectorAll('article img')]"
    with browser() as page:
        for path in ("index.html", "docs/studies/results.html", "docs/guide/explain.html"):
            for width, dark in ((1280, False), (390, True)):
                page.visit(f"{address}/{path}", "document.readyState === 'complete'", width, dark)
                assert page.problems == []
                assert page.run(fits), (path, width)
                assert page.run(f"{pictures}.every((one) => one.naturalWidth > 0)")
                fetched = page.run("performance.getEntriesByType('resource').map((one) => one.name)")
                assert [name for name in fetched if not name.startswith((address, "data:"))] == []
        page.visit(f"{address}/index.html", "document.readyState === 'complete'", dark=True)
        assert page.run(f"{pictures}[0].currentSrc").endswith("system-dark.svg")
        page.run("document.querySelector('.md-search__input').focus()")
        page.run(
            "{const box = document.querySelector('.md-search__input'); box.value = 'stranding';"
            " box.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}));}"
        )
        page.wait("[...document.querySelectorAll('.md-search-result a')].some((one) => one.href.includes('stranding'))")


def test_the_dark_picture_says_what_the_light_one_says() -> None:
    light, dark = (
        re.findall(r">([^<>]+)<", (ROOT / "docs" / "pictures" / name).read_text("utf-8"))
        for name in ("system.svg", "system-dark.svg")
    )
    assert light == dark
