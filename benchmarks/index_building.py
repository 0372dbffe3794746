"""Measure the time and memory of building sample indices, for datasets of many documents with synthetic lengths.

    python benchmarks/index_building.py --documents 1_000_000 10_000_000 100_000_000 --scratch FOLDER

Lengths are log-normal, with a mean of 665 tokens. The .bin is a sparse file of zeros; the .idx is real (2 GB for 100M
documents). Each dataset is opened twice, in separate processes: first to build the indices, then to load them as every
rank of a run does. Memory is relative to the start of the process: the peak of all resident pages, including mapped
files, which the kernel can reclaim; and the peak of anonymous memory, which it cannot.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TOKEN_BYTES = 2
CHUNK = 1 << 20


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument(
        "--epochs", type=float, default=0.99, help="number of times that the run reads the training split"
    )
    parser.add_argument("--seq-length", type=int, default=2048)
    parser.add_argument("--scratch", type=Path, help="folder with 40 bytes of free space per document")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    print("| documents | tokens | epochs | build s | peak MB | anonymous MB | load s | anonymous MB per rank |")
    print("|---|---|---|---|---|---|---|---|")
    for documents in options.documents:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            prefix = Path(scratch) / "synthetic"
            tokens = write_dataset(prefix, documents)
            built, loaded = (run_measure(prefix, options) for _ in range(2))
        print(
            f"| {documents:,} | {tokens / 1e9:.2f}G | {options.epochs} | {built['seconds']:.1f} |"
            f" {built['peak']:,.0f} | {built['peak_anonymous']:,.0f} | {loaded['seconds']:.1f} |"
            f" {loaded['anonymous']:,.0f} |",
            flush=True,
        )


def run_measure(prefix: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run `measure` in a separate process."""
    settings = [f"--epochs={options.epochs}", f"--seq-length={options.seq_length}"]
    command = [sys.executable, __file__, "--measure", str(prefix), *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def measure(prefix: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure seconds and megabytes of opening the datasets of a run, which builds missing indices."""
    import torch

    from megatron_ipt.config.pretrain import BlendEntry, DataConfig
    from megatron_ipt.data.blends import TokenIds, build_datasets

    distributed: Any = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    tokens = prefix.with_suffix(".bin").stat().st_size // TOKEN_BYTES
    data = DataConfig(
        tokenizer="", blend=[BlendEntry(prefix=str(prefix))], split="999,1,0", seq_length=options.seq_length
    )
    before, watch = resident_megabytes(), Watch()
    started_seconds = time.monotonic()
    train, _ = build_datasets(
        data,
        TokenIds(32000, 2, {}),
        train_samples=int(tokens * 0.999 * options.epochs / options.seq_length),
        valid_samples=100,
        seed=1,
        index_cache=str(prefix.parent / "cache"),
        is_built_on_rank=lambda: True,
    )
    seconds = time.monotonic() - started_seconds
    watch.stop()
    after = resident_megabytes()
    assert train[0]["tokens"].numel() == options.seq_length
    return {
        "seconds": seconds,
        "peak": after["VmHWM"] - before["VmRSS"],
        "peak_anonymous": watch.peak - before["RssAnon"],
        "anonymous": after["RssAnon"] - before["RssAnon"],
    }


class Watch:
    """Peak anonymous memory of this process, sampled fifty times per second."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(0.02):
            self.peak = max(self.peak, resident_megabytes()["RssAnon"])


def resident_megabytes() -> dict[str, float]:
    """Return this process's memory in megabytes, by the field names of /proc/self/status."""
    rows = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 / 1e6 for row in rows if row[-1] == "kB"}


def write_dataset(prefix: Path, documents: int) -> int:
    """Write an .idx as megatron_ipt/corpus/indexed_writer.py does and a sparse .bin; return the number of tokens."""
    tokens = 0
    with prefix.with_suffix(".idx").open("wb") as index:
        index.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, documents, documents + 1))
        for lengths in draw_lengths(documents):
            index.write(lengths.data)
        for lengths in draw_lengths(documents):
            ends = tokens + np.cumsum(lengths, dtype="<i8")
            index.write(((ends - lengths) * TOKEN_BYTES).data)
            tokens = int(ends[-1])
        for start in range(0, documents + 1, CHUNK):
            index.write(np.arange(start, min(start + CHUNK, documents + 1), dtype="<i8").data)
    with prefix.with_suffix(".bin").open("wb") as tokens_file:
        tokens_file.truncate(tokens * TOKEN_BYTES)
    return tokens


def draw_lengths(documents: int) -> Iterator[npt.NDArray[np.int32]]:
    """Yield document lengths, the same in every call."""
    generator = np.random.default_rng(1)
    for start in range(0, documents, CHUNK):
        drawn = generator.lognormal(6.0, 1.0, min(CHUNK, documents - start))
        yield np.clip(drawn, 1, 100_000).astype("<i4")


if __name__ == "__main__":
    main()
