"""Packages beside this one, in the form in which pip installs them."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

_GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def install(site: Path, modules: Mapping[str, str], group: str, entry_points: Mapping[str, str]) -> None:
    """Install a package into the new folder `site`: sources by module name, and its entry points of one `group`."""
    metadata = site / "installed-1.0.dist-info"
    metadata.mkdir(parents=True)
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1.0\n", encoding="utf-8")
    points = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{points}", encoding="utf-8")


def install_from_guide(site: Path, guide: str, group: str) -> str:
    """Install the package that a guide shows, a module before its one entry point of `group`; returns its name."""
    blocks = re.findall(r"^```(\w+)\n(.+?)^```$", (_GUIDES / guide).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    [(source, points)] = [
        (source, tomllib.loads(text)["project"]["entry-points"][group])
        for (_, source), (language, text) in itertools.pairwise(blocks)
        if language == "toml" and group in text
    ]
    [(name, value)] = points.items()
    install(site, {value.partition(":")[0]: source}, group, points)
    return str(name)
