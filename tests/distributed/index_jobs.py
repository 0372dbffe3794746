"""Ranks that are nodes of their own, as jobs for the worker pool."""

from __future__ import annotations

import io
import os
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jobs


def pretrain_on_own_node(given: dict[str, Any], caches: list[str]) -> int:
    """`jobs.pretrain` as the first rank of a node whose index cache is the rank's of `caches`."""
    os.environ["LOCAL_RANK"] = "0"
    cache = caches[int(os.environ["RANK"])]
    return jobs.pretrain({**given, "data": {**given["data"], "index_cache": cache}})


def count_builds(cache: str) -> int:
    """How often this rank, the first of its node, builds indices that take half a second."""
    from megatron_ipt.config.pretrain import ParallelConfig
    from megatron_ipt.data.index_cache import ensure_indices
    from megatron_ipt.parallel.groups import initialize, shutdown

    os.environ["LOCAL_RANK"] = "0"
    built: list[str] = []

    def build(folder: str) -> None:
        built.append(folder)
        time.sleep(0.5)
        (Path(folder) / "one.txt").write_text("index")

    initialize(ParallelConfig(), seed=1)
    try:
        ensure_indices(Path(cache), {"of": "one"}, build)
        assert (Path(cache) / "one.txt").is_file()
    finally:
        shutdown()
    return len(built)


def build_ahead(file: str, *overrides: str) -> tuple[int, str]:
    """The exit code of `megatron-ipt index`, and what it prints."""
    from megatron_ipt.cli.build_index import main

    printed = io.StringIO()
    with redirect_stdout(printed):
        return main([f"--config={file}", *overrides]), printed.getvalue()
