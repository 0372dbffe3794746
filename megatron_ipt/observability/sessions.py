"""sessions.jsonl: when a run was started, how far it came each time, and how much of that time it trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.jsonl import read_intact_records

SESSIONS_NAME = "sessions.jsonl"


@dataclass(frozen=True)
class Session:
    """One start of a run, from the start of its process to its last recorded event; times in seconds since 1970."""

    started: float
    ended: float
    ranks: int
    device: str
    layout: str
    productive_seconds: float = 0.0
    """Time in steps that are part of the run, those of earlier sessions included."""


@dataclass(frozen=True)
class RunTimes:
    """How the time of a run was spent, over all its sessions."""

    sessions: Sequence[Session]

    @property
    def wall_seconds(self) -> float:
        """From the first start to the last recorded event, the time between sessions included."""
        return self.sessions[-1].ended - self.sessions[0].started

    @property
    def rank_hours(self) -> float:
        """GPU-hours on GPUs; without the time between sessions."""
        return sum((one.ended - one.started) * one.ranks for one in self.sessions) / 3600

    @property
    def goodput(self) -> float:
        """Productive time over wall time: the rest is start-up, checkpoints, validation, lost steps and waiting."""
        return self.sessions[-1].productive_seconds / self.wall_seconds


def append_session_event(file: Path, event: Mapping[str, Any]) -> None:
    """Append one line: of a start, with all that `Session` says of it, or of progress since."""
    with file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(event) + "\n")


def read_sessions(file: Path) -> RunTimes | None:
    """Read the sessions of a run; None if it recorded none."""
    sessions: list[Session] = []
    for event in read_intact_records(file):
        if "started" in event:
            sessions.append(Session(**event))
        elif sessions:
            sessions[-1] = replace(sessions[-1], **event)
    return RunTimes(sessions) if sessions else None
