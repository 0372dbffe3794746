"""mkdocs hook that allows line breaks in code in table cells, at dots, slashes, colons, underscores and capitals."""

from __future__ import annotations

import re
from typing import Any

_CODE_IN_CELL = re.compile(r"(?<=<td>)(?:(?!</td>).)*<code>.*?(?=</td>)", re.DOTALL)
_CODE = re.compile(r"(?<=<code>).*?(?=</code>)", re.DOTALL)
_BREAK = re.compile(r"(?<=[/_:])(?=\w)|(?<=\.)(?=\w{5})|(?<=[a-z])(?=[A-Z])")


def on_page_content(html: str, **_: Any) -> str:
    """Insert <wbr> where a narrow column may break a name."""
    return _CODE_IN_CELL.sub(lambda cell: _CODE.sub(lambda code: _BREAK.sub("<wbr>", code[0]), cell[0]), html)
