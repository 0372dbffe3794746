"""The progress of a synthesis: each worker writes a tally to disk, and a monitor shows the sum of all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import orjson

from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.synthesis.counts import Counts

_TALLY_SECONDS = 0.5


@dataclass
class Tally:
    """The progress of one worker, or of all of them, in this run; `skipped_texts` were finished by earlier runs.

    `began_seconds` is the time since the epoch, so that workers on different machines can be compared.
    """

    total_texts: int = 0
    skipped_texts: int = 0
    began_seconds: float = 0.0
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def sum(cls, tallies: Iterable[Tally]) -> Tally:
        """Sum the progress of all workers, since the first one began."""
        joint = cls(began_seconds=time.time())
        for one in tallies:
            joint.total_texts += one.total_texts
            joint.skipped_texts += one.skipped_texts
            joint.began_seconds = min(joint.began_seconds, one.began_seconds)
            joint.counts.add(one.counts)
        return joint

    @property
    def done_texts(self) -> int:
        """The number of texts for which the engine has no more work."""
        return self.skipped_texts + self.counts.texts

    def describe_rates(self, now_seconds: float) -> str:
        """Format texts, pairs and tokens per second until `now_seconds`, the fraction dropped, and the time left."""
        counts, seconds = self.counts, max(now_seconds - self.began_seconds, 1e-9)
        if not counts.texts:
            return "no answer yet"
        dropped = sum(counts.drops.values())
        left_seconds = max(self.total_texts - self.done_texts, 0) * seconds / counts.texts
        return (
            f"{counts.augmented_texts / seconds:.2f} texts/s | {counts.pairs / seconds:.2f} pairs/s"
            f" | {counts.generated_tokens / seconds:,.0f} tokens/s | {counts.pairs} pairs"
            f" | {dropped / max(counts.pairs + dropped, 1):.0%} dropped"
            f" | {counts.texts_without_pairs / max(counts.augmented_texts, 1):.0%} of texts without"
            f" | ETA {timedelta(seconds=round(left_seconds))}"
        )


class WorkerProgress:
    """The tally of one worker, written to its file at intervals."""

    def __init__(self, file: Path, total_texts: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._tally = file, Tally(total_texts)
        self.begin()

    def begin(self) -> None:
        """Start the clock, once the engine is loaded."""
        self._tally.began_seconds = time.time()
        self._write()

    def skip(self, texts: int) -> None:
        """Count texts that are already finished, or left out."""
        self._tally.skipped_texts += texts
        self._write_when_due()

    def add(self, counts: Counts) -> None:
        """Count texts that have been finished."""
        self._tally.counts.add(counts)
        self._write_when_due()

    def end(self) -> None:
        """Write what has not been written yet."""
        self._write()

    def _write_when_due(self) -> None:
        if time.monotonic() - self._written_seconds > _TALLY_SECONDS:
            self._write()

    def _write(self) -> None:
        self._written_seconds = time.monotonic()
        row: dict[str, object] = {**vars(self._tally), "counts": self._tally.counts.to_dict()}
        write_atomically(self._file, orjson.dumps(row).decode())


class JointProgress:
    """Shows the sum of the tallies in a folder."""

    def __init__(self, title: str, folder: Path) -> None:
        self._folder, self._display = folder, ProgressDisplay(title, "texts")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> JointProgress:
        self._display.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._show()
        self._display.stop()

    def _watch(self) -> None:
        while not self._stopped.wait(self._display.interval_seconds):
            self._show()

    def _show(self) -> None:
        tally = Tally.sum(read_tallies(self._folder))
        if tally.total_texts:
            self._display.update(tally.done_texts, tally.total_texts, tally.describe_rates(time.time()))


def read_tallies(folder: Path) -> list[Tally]:
    """Read the current tallies of all workers."""
    rows = [orjson.loads(file.read_bytes()) for file in sorted(folder.glob("[!.]*.json"))]
    return [Tally(**{**row, "counts": Counts.from_dict(row["counts"])}) for row in rows]
