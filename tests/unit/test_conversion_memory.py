"""Memory of conversions: it grows with the largest tensor, not with the model."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import pytest
import torch
from conversion_sources import RUNS, Sources, write_sources
from megatron_lm_files import SHAPE

from megatron_ipt.checkpointing import streamed

LARGE = SHAPE | {"num_layers": 12, "hidden_size": 384, "ffn_hidden_size": 1536}
"""107 MB in fp32; the largest tensor is a gate of 2.4 MB, and 4.7 MB with its up."""
MOST_BYTES = 60_000_000


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sources]:
    return {
        name: write_sources(tmp_path_factory.mktemp(name), shape)
        for name, shape in (("small", SHAPE), ("large", LARGE))
    }


def memory_bytes(name: str) -> int:
    """A value of /proc/self/status: VmRSS is the memory in use, VmHWM its peak."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def measure(direction: str, sources: dict[str, Sources], folder: Path, peak: multiprocessing.Queue[int]) -> None:
    """Report by how much a conversion of the large model, after one of the small model, raises the memory in use."""
    torch.set_num_threads(1)  # OpenMP's threads do not exist in a forked process
    streamed.FILE_BYTES = 20_000_000
    RUNS[direction](sources["small"], folder / "small")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = memory_bytes("VmRSS")
    RUNS[direction](sources["large"], folder / "large")
    peak.put(memory_bytes("VmHWM") - before)


@pytest.mark.full
@pytest.mark.parametrize("direction", [name for name in RUNS if name != "hf-to-mcore"])
def test_a_few_tensors_are_in_memory(direction: str, sources: dict[str, Sources], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    peak: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=measure, args=(direction, sources, tmp_path, peak))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert peak.get() < MOST_BYTES
