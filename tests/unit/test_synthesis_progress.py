"""Progress of several workers: each writes a tally, and their sum is shown."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path

import pytest

from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.generation.progress import JointProgress, Tally, WorkerProgress, read_tallies


def counts(texts: int) -> Counts:
    return Counts(
        texts=texts,
        augmented_texts=texts,
        pairs=2 * texts,
        generated_tokens=30 * texts,
        drops=Counter({"unfinished": 1}),
    )


def test_tallies_of_all_workers_are_summed(tmp_path: Path) -> None:
    first, second = (WorkerProgress(tmp_path / "tallies" / f"{number}.json", 100) for number in range(2))
    first.skip(40)
    first.add(counts(10))
    first.add(counts(10))
    second.add(counts(5))
    for one in (first, second):
        one.end()
    joint = Tally.sum(read_tallies(tmp_path / "tallies"))
    assert (joint.total_texts, joint.skipped_texts, joint.done_texts) == (200, 40, 65)
    assert joint.counts.pairs == 50
    assert joint.counts.drops == {"unfinished": 3}


def test_rates_and_time_left_count_the_texts_of_this_run() -> None:
    tally = Tally(total_texts=200, skipped_texts=100, began_seconds=1000.0, counts=counts(20))
    assert tally.describe_rates(1020.0) == (
        "1.00 texts/s | 2.00 pairs/s | 30 tokens/s | 40 pairs | 2% dropped | 0% of texts without | ETA 0:01:20"
    )
    assert tally.describe_rates(1040.0).endswith("ETA 0:02:40")
    assert Tally(total_texts=200).describe_rates(1020.0) == "no answer yet"


def test_without_a_terminal_the_sum_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), JointProgress("synthesize", tmp_path):
        for number in range(3):
            progress = WorkerProgress(tmp_path / f"{number}.json", 10)
            progress.add(counts(10))
            progress.end()
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("synthesize: 30/30 texts | ") and "60 pairs" in line


def test_tally_is_written_at_intervals(tmp_path: Path) -> None:
    progress = WorkerProgress(tmp_path / "0.json", 10)
    deadline_seconds = time.monotonic() + 30
    for _ in range(2):
        before = read_tallies(tmp_path)[0].done_texts
        while read_tallies(tmp_path)[0].done_texts == before:
            progress.add(counts(1))
            time.sleep(0.02)
            assert time.monotonic() < deadline_seconds
