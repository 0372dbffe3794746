"""A hook of mkdocs: names in table cells break at their dots, slashes, colons, underscores and capitals."""

from __future__ import annotations

import re
from typing import Any

_CODE_IN_CELL = re.compile(r"(?<=<td>)(?:(?!</td>).)*<code>.*?(?=</td>)", re.DOTALL)
_CODE = re.compile(r"(?<=<code>).*?(?=</code>)", re.DOTALL)
_BREAK = re.compile(r"(?<=[/_:])(?=\w)|(?<=\.)(?=\w{5})|(?<=[a-z])(?=[A-Z])")


def on_page_content(html: str, **_: Any) -> str:
    """Mark the places where a narrow column may break a name."""
    return _CODE_IN_CELL.sub(lambda cell: _CODE.sub(lambda code: _BREAK.sub("<wbr>", code[0]), cell[0]), html)
