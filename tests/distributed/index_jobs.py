"""Ranks that are nodes of their own, as jobs for the worker pool."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from typing import Any

import jobs


def pretrain_on_own_node(given: dict[str, Any], caches: list[str]) -> int:
    """`jobs.pretrain` as the first rank of a node whose index cache is the rank's of `caches`."""
    os.environ["LOCAL_RANK"] = "0"
    cache = caches[int(os.environ["RANK"])]
    return jobs.pretrain({**given, "data": {**given["data"], "index_cache": cache}})


def build_ahead(file: str, *overrides: str) -> tuple[int, str]:
    """The exit code of `megatron-ipt index`, and what it prints."""
    from megatron_ipt.cli.build_index import main

    printed = io.StringIO()
    with redirect_stdout(printed):
        return main([f"--config={file}", *overrides]), printed.getvalue()
