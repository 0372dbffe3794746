"""The documentation site builds without a warning, and shows its pages without a network."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED_FROM_ELSEWHERE = re.compile(r"""(?:src=|<link [^>]*rel="?stylesheet"?[^>]*href=)["']?(?:https?:)?//[^"' >]+""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runpy.run_path(str(ROOT / "docs" / "make_reference.py"), run_name="__main__")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {page.relative_to(site).with_suffix(".md").as_posix(): page for page in site.rglob("*.html")}
    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert len(written) > 10
    assert written - pages.keys() == set()
    found = {name: LOADED_FROM_ELSEWHERE.findall(page.read_text(encoding="utf-8")) for name, page in pages.items()}
    assert {name: sources for name, sources in found.items() if sources} == {}


def test_settings_are_found_by_the_search(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "render.short_modes" in index and "parallel.tensor_model_parallel_size" in index
