"""Measure the memory and speed of conversions in both directions, and compare the speed with that of copying.

    python benchmarks/convert_memory.py --tokenizer FOLDER --scratch FOLDER --layers 4

The model is a bf16 Llama with random weights, the layer sizes of Llama-3-8B, and the given number of layers; the
scratch folder needs three times its size. It is converted to a checkpoint and back, without and with the parity check.
Memory is the proportional set size of all processes together. Speed is the time of `cp` and fsync of the weights
divided by the time of the conversion, without the parity check and without startup, which is measured with a small
model with the same tokenizer. All input files are in the page cache. Finally, each conversion is killed with SIGKILL
when half of the weights are in finished files, and run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.conversion.hf_config import write_hf_config
from megatron_ipt.conversion.hf_shards import HfTensors, write_weights
from megatron_ipt.conversion.tensor_checks import ValueCheck
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.models.model_family import load_family

DIRECTIONS = ("hf-to-mcore", "mcore-to-hf")
SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "convert_checkpoint.py"
NARROW = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128}
SAMPLE_SECONDS = 0.25
NOISE_VALUES = 10_000_019
"""Size of the noise that is repeated in every matrix, which is much faster than generating all values."""


@dataclass
class Usage:
    """Wall-clock and CPU time of a command, and its peak memory, sampled at intervals."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self, pid: int) -> None:
        """Sample the memory of a process and its children until `ended` is set."""
        while not self.ended.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, sum(proportional_bytes(pid)))


def proportional_bytes(pid: int) -> Iterator[int]:
    """Yield the proportional set size of a process and each of its children, in bytes."""
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        yield from (int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def measured(command: Sequence[str]) -> Usage:
    """Run `command` and measure it; exit if it fails."""
    usage = Usage()
    before, start = os.times(), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watcher = threading.Thread(target=usage.watch, args=(process.pid,))
        watcher.start()
        code = process.wait()
        usage.ended.set()
        watcher.join()
    after = os.times()
    usage.seconds = time.perf_counter() - start
    usage.cpu_seconds = sum(after[2:4]) - sum(before[2:4])
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")
    return usage


def write_model(folder: Path, model: ModelConfig, tokenizer: Path) -> None:
    """Write a Hugging Face folder with random weights."""
    shutil.copytree(tokenizer, folder)
    write_hf_config(folder, model, torch.bfloat16, {})
    noise = torch.randn(NOISE_VALUES, generator=torch.Generator().manual_seed(0)).bfloat16()

    def read(names: Sequence[str]) -> Iterator[torch.Tensor]:
        for name in names:
            size = shapes[name]
            start = zlib.crc32(name.encode()) % (NOISE_VALUES // 2)
            values = noise[start:].repeat(size.numel() // (NOISE_VALUES - start) + 1)[: size.numel()].view(size)
            yield values if len(size) == 1 else values * size[-1] ** -0.5

    shapes = dict(hf_shapes(model))
    write_weights(folder, HfTensors(shapes, torch.bfloat16, read, ValueCheck(torch.bfloat16)))


def hf_shapes(model: ModelConfig) -> Iterator[tuple[str, torch.Size]]:
    """Yield the names and shapes of the parameters of transformers' model."""
    import transformers

    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(model.family, **load_family(model.family).hf_values(model))
        hf = transformers.AutoModelForCausalLM.from_config(config)
    yield from ((name, parameter.shape) for name, parameter in hf.named_parameters())


def copied(files: Sequence[Path], folder: Path) -> Usage:
    """Measure copying `files` with cp and flushing them to disk; the copies are removed."""
    folder.mkdir()
    sources = " ".join(f"'{file}'" for file in files)
    usage = measured(["sh", "-c", f"cp {sources} '{folder}' && sync '{folder}'/*"])
    shutil.rmtree(folder)
    return usage


def convert(direction: str, source: Path, target: Path, *settings: str) -> Usage:
    """Measure a conversion with our own command."""
    paths = [f"--input={source}", f"--output={target}"]
    return measured([sys.executable, str(SCRIPT), direction, *paths, *settings])


def continued(direction: str, source: Path, target: Path) -> tuple[int, float]:
    """Kill a conversion half-way, and run it again; exit if a finished file is written a second time.

    Returns:
        The bytes in files that were finished, and the seconds that the second run took.
    """
    weights_bytes = sum(file.stat().st_size for file in weight_files(source))
    command = [sys.executable, str(SCRIPT), direction, f"--input={source}", f"--output={target}", "parity_check=false"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and sum(finished_files(target).values()) < weights_bytes / 2:
            time.sleep(SAMPLE_SECONDS)
        process.kill()
    kept = finished_files(target)
    times = {name: (target / name).stat().st_mtime_ns for name in kept}
    usage = convert(direction, source, target, "parity_check=false")
    after = {file.name: file.stat().st_mtime_ns for file in weight_files(target)}
    if rewritten := [name for name, before in times.items() if after[Path(name).name] != before]:
        sys.exit(f"{direction}: {', '.join(rewritten)} were finished, and were written again")
    return sum(kept.values()), usage.seconds


def finished_files(target: Path) -> dict[str, int]:
    """Paths and sizes of the files that an unfinished conversion has finished."""
    listed = target / ".finished.json"
    try:
        records = [entry["record"] for entry in json.loads(listed.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return {}
    return {record["path"]: record["size_bytes"] for record in records}


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a Hugging Face folder or of a run."""
    return [file for end in ("safetensors", "distcp") for file in sorted(folder.rglob(f"*.{end}"))]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--no-parity", action="store_true")
    options = parser.parse_args()
    values = MODEL_PRESETS["llama3-8b"]
    model, narrow = ModelConfig(**values | {"num_layers": options.layers}), ModelConfig(**values | NARROW)
    print(f"{parameter_count(model) / 1e9:.2f}B parameters, {parameter_count(model) * 2 / 1e9:.2f} GB", flush=True)
    print(
        "| direction | cp + fsync s (CPU s) | startup s | total s (CPU s) | ratio | peak GB | with parity: s, peak GB "
        "| killed half-way: GB kept, s to finish |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        folders = {kind: [scratch / f"{kind}_{number}" for number in range(3)] for kind in ("small", "large")}
        write_model(folders["small"][0], narrow, options.tokenizer)
        write_model(folders["large"][0], model, options.tokenizer)
        for number, direction in enumerate(DIRECTIONS):
            small, source = folders["small"][number : number + 2], folders["large"][number]
            start = convert(direction, *small, "parity_check=false")
            files = weight_files(source)
            copies, runs = [], []
            for _ in range(options.repeats):
                shutil.rmtree(folders["large"][number + 1], ignore_errors=True)
                copies.append(copied(files, scratch / "copy"))
                runs.append(convert(direction, source, folders["large"][number + 1], "parity_check=false"))
            copy, run = (statistics.median(usage.seconds for usage in usages) for usages in (copies, runs))
            parity = "-"
            if not options.no_parity:
                shutil.rmtree(folders["large"][number + 1])
                checked = convert(direction, source, folders["large"][number + 1])
                parity = f"{checked.seconds:.1f}, {checked.peak_bytes / 1e9:.2f}"
            shutil.rmtree(folders["large"][number + 1])
            kept_bytes, seconds = continued(direction, source, folders["large"][number + 1])
            print(
                f"| {direction} | {copy:.1f} ({copies[-1].cpu_seconds:.1f}) | {start.seconds:.1f} | {run:.1f} "
                f"({runs[-1].cpu_seconds:.1f}) | {copy / (run - start.seconds):.2f} | "
                f"{max(usage.peak_bytes for usage in runs) / 1e9:.2f} | {parity} "
                f"| {kept_bytes / 1e9:.2f}, {seconds:.1f} |",
                flush=True,
            )
        same = all(
            torch.equal(tensor, after[name])
            for file in sorted(folders["large"][0].glob("*.safetensors"))
            for after in [load_file(folders["large"][2] / file.name)]
            for name, tensor in load_file(file).items()
        )
        print(f"the weights after both conversions {'are bit-identical' if same else 'DIFFER'}")


if __name__ == "__main__":
    main()
