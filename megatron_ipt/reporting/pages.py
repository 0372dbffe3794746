"""HTML pages without external resources; all values are escaped, because what they show may come from anywhere."""

from __future__ import annotations

from typing import Any


def render_page(template: str, **values: Any) -> str:
    """Fill a file of `templates`, which extends `page.html`, with `values`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("megatron_ipt.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
