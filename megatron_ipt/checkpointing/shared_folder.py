"""Checks that all nodes see the same run folder.

Where they do not, each would write its part of a checkpoint to a folder of its own, and ranks would wait for each other
until a timeout.
"""

from __future__ import annotations

import platform
import time
from contextlib import suppress
from pathlib import Path

from megatron_ipt.checkpointing.run_lock import mark_file
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.agreement import gather

_VISIBLE_SECONDS = 30.0
"""For a file to become visible on other nodes: NFS caches the entries of a folder for 30 s by default."""
_POLL_SECONDS = 0.1
_REMEDY = "set run to a folder on a file system that all nodes share, under the same path"
_MAX_NAMED = 4


def check_is_shared(run: Path, mark: str) -> None:
    """Check that every rank can read the mark that rank 0 has just written; a collective call.

    Args:
        run: the run folder.
        mark: the mark of the run lock.

    Raises:
        UserError: on all ranks, if some cannot read it.
    """
    seeing, blind = _ranks_by_answer(wait_until_visible(mark_file(run), mark))
    if 0 in blind:
        raise UserError("run", run, "another job has been started on it since", "run only one of the two")
    if blind:
        reason = f"a file that {seeing[0]} (rank 0) has written there does not exist on {_named(blind)}"
        raise UserError("run", run, reason, _REMEDY)


def check_finished_alike(run: Path, *, is_done: bool) -> None:
    """Check that all ranks agree whether the run is finished; a collective call.

    Args:
        run: the run folder.
        is_done: whether it is finished, as this rank sees it.

    Raises:
        UserError: on all ranks, if they disagree.
    """
    done, others = _ranks_by_answer(is_done)
    if done and others:
        reason = f"it holds the finished run on {_named(done)}, but not on {_named(others)}"
        raise UserError("run", run, reason, f"{_REMEDY}; if the run has only just finished, try again in a minute")


def wait_until_visible(file: Path, text: str) -> bool:
    """Wait until `file` holds `text`; return False if it does not within the time that file systems need."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while _read(file) != text:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
        with suppress(OSError):
            list(file.parent.iterdir())  # makes NFS read the entries again
    return True


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _ranks_by_answer(answer: bool) -> tuple[dict[int, str], dict[int, str]]:
    """Return the ranks that answer yes, and those that answer no, with their nodes."""
    answers = gather((platform.node(), answer))
    yes, no = (
        {rank: node for rank, (node, given) in enumerate(answers) if given is wanted} for wanted in (True, False)
    )
    return yes, no


def _named(ranks: dict[int, str]) -> str:
    """Name the first nodes of `ranks`, each with its first rank."""
    first_ranks = {node: rank for rank, node in reversed(ranks.items())}
    names = [f"{node} (rank {rank})" for node, rank in sorted(first_ranks.items(), key=lambda item: item[1])]
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} other nodes" if more > 0 else "")
