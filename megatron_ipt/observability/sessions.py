"""sessions.jsonl: the starts of a run, the duration of each session, and the productive time in it."""

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
    """One session of a run, from the start of its process to its last recorded event, in seconds since the epoch."""

    started: float
    ended: float
    ranks: int
    device: str
    layout: str
    productive_seconds: float = 0.0
    """Time in steps whose result was kept, including those of earlier sessions."""


@dataclass(frozen=True)
class RunTimes:
    """The time of a run over all its sessions."""

    sessions: Sequence[Session]

    @property
    def wall_seconds(self) -> float:
        """Time from the first start to the last recorded event, including the time between sessions."""
        return self.sessions[-1].ended - self.sessions[0].started

    @property
    def rank_hours(self) -> float:
        """Rank-hours (GPU-hours on GPUs), without the time between sessions."""
        return sum((session.ended - session.started) * session.ranks for session in self.sessions) / 3600

    @property
    def goodput(self) -> float:
        """Productive time over wall time: the rest is start-up, checkpoints, validation, lost steps and waiting."""
        return self.sessions[-1].productive_seconds / self.wall_seconds


def append_session_event(file: Path, event: Mapping[str, Any]) -> None:
    """Append one line: the fields of a new `Session`, or those that have changed since its start."""
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
