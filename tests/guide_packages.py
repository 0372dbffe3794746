"""Packages that a guide shows, as pip would install them."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def install(guide: str, group: str, site: Path) -> str:
    """Put the module that a guide shows for an entry point of `group` into the folder `site`; returns the point's name.

    In the guide, a Python block that begins with `# module NAME` comes before the TOML block of the entry point.
    """
    blocks = re.findall(r"^```(python|toml)\n(.+?)^```$", (GUIDES / guide).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    [(code, table)] = [
        (code, tomllib.loads(text)["project"]["entry-points"][group])
        for (_, code), (language, text) in itertools.pairwise(blocks)
        if language == "toml" and group in text
    ]
    [(name, value)] = table.items()
    module = value.partition(":")[0]
    assert code.startswith(f"# module {module}\n")
    (site / f"{module}.py").write_text(code, encoding="utf-8")
    metadata = site / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {module}\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n", encoding="utf-8")
    return str(name)
