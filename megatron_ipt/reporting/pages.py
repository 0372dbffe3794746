"""HTML pages without external resources; all values are escaped, because they contain text from untrusted sources.

In other templates, such as Markdown, values are not escaped.
"""

from __future__ import annotations

from typing import Any

from megatron_ipt.reporting.colors import DARK, LIGHT, declare


def render_page(template: str, **values: Any) -> str:
    """Fill a file of `templates` with `values`; those that end in .html extend `page.html`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("megatron_ipt.reporting", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"light_colors": declare(LIGHT), "dark_colors": declare(DARK)}
    return environment.get_template(template).render(values)
