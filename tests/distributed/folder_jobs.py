"""Ranks that do not share their run folder, as jobs for the worker pool."""

from __future__ import annotations

import os
from typing import Any

import jobs


def refused_in_own_folder(given: dict[str, Any]) -> str:
    """Return the error on a rank whose run folder is RUN_RANK: as on nodes with separate folders under one path."""
    from megatron_ipt.checkpointing import shared_folder

    shared_folder._VISIBLE_SECONDS = 0.5
    return jobs.refused({**given, "run": f"{given['run']}_{os.environ['RANK']}"})
