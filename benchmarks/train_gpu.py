"""Measure InstructLM's models on one GPU: throughput, memory and losses in bf16 and with each FP8 recipe.

    python benchmarks/train_gpu.py --input FILE.jsonl --tokenizer FOLDER --peer MEGATRON_LM_CHECKOUT --scratch FOLDER

Each model and format is trained from scratch on the same real text, with a separate command. With --peer, Megatron-LM's
pretrain_gpt.py then trains the same model with the same batch size and kernels. Finally, a short run in deterministic
mode is stopped, resumed, and compared bit by bit with an uninterrupted run.

Results are kept in the scratch folder: the same command continues where it was stopped, and --models, --formats and
--parts select a part of the work. Instead of text, an existing indexed dataset can be given (--data PREFIX).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_lm import peer_arguments, peer_command, read_log
from train_gpu_report import render

from megatron_ipt.config.loading import config_from, save_config
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.observability.metrics import METRICS_NAME, read_metrics

ROOT = Path(__file__).resolve().parents[1]
FORMATS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "tensorwise": {"fp8": "hybrid", "fp8_recipe": "tensorwise"},
    "delayed": {"fp8": "hybrid", "fp8_recipe": "delayed"},
    "blockwise": {"fp8": "e4m3", "fp8_recipe": "blockwise"},
}
PARTS = ("ours", "peer", "resume")
RESUME_STEPS = 20
WARMUP_SHARE = 0.2
"""Share of the steps that is excluded from the throughput."""


def main() -> None:
    """Run what has not been run yet, and print a table of all results."""
    options = parse_options()
    options.scratch.mkdir(parents=True, exist_ok=True)
    prefix = options.data or prepare_data(options)
    for model in options.models:
        for name, precision in FORMATS.items():
            if name not in options.formats:
                continue
            config = configure(options, prefix, f"{model}_{name}", {"preset": model}, precision)
            if "ours" in options.parts:
                keep(options, f"{model}_{name}_ours", lambda config=config: train(config))
            if "peer" in options.parts and options.peer:
                keep(options, f"{model}_{name}_peer", lambda config=config: train_peer(options, config))
    if "resume" in options.parts:
        model = options.models[0]
        keep(options, f"{model}_resume", lambda: check_resume(options, prefix, model))
    found = {file.stem: json.loads(file.read_text()) for file in sorted(options.scratch.glob("results/*.json"))}
    report = render(found, options.seq_length)
    (options.scratch / "report.md").write_text(report, encoding="utf-8")
    print(report)


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--input", type=Path, help="JSONL with a field text")
    text.add_argument("--data", type=Path, help="prefix of an indexed dataset that was tokenized with the tokenizer")
    parser.add_argument("--tokenizer", type=Path, required=True, help="Hugging Face tokenizer folder")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for runs and results; up to 40 GB")
    parser.add_argument("--peer", type=Path, help="checkout of NVIDIA/Megatron-LM")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that can import the checkout")
    parser.add_argument("--models", nargs="+", choices=MODEL_PRESETS, default=["instructlm-500m", "instructlm-1.3b"])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seq-length", type=int, default=2048)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--global-batch-size", type=int, default=16)
    return parser.parse_args()


def keep(options: argparse.Namespace, name: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Call `measure` and store its result, unless there is one already; a failure is stored as well."""
    file = options.scratch / "results" / f"{name}.json"
    if file.is_file():
        return
    print(f"{name} ...", file=sys.stderr)
    try:
        result = measure()
    except subprocess.CalledProcessError as error:
        result = {"failed": error.output[-3000:]}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result), encoding="utf-8")


def prepare_data(options: argparse.Namespace) -> Path:
    """Convert the text to an indexed dataset, with our own command, which skips finished work."""
    prefix = options.scratch / "data" / "text"
    command = [sys.executable, str(ROOT / "tools" / "preprocess_data.py"), "--input", str(options.input)]
    command += ["--output-prefix", str(prefix), "--append-eod", "--tokenizer-type", "HuggingFaceTokenizer"]
    run([*command, "--tokenizer-model", str(options.tokenizer)])
    return prefix.with_name("text_text_document")


def configure(
    options: argparse.Namespace, prefix: Path, name: str, model: dict[str, Any], precision: dict[str, Any]
) -> PretrainConfig:
    """Return the configuration for training one model in one number format."""
    return config_from(
        PretrainConfig,
        {
            "run": str(options.scratch / "runs" / name),
            "model": model,
            "data": {
                "tokenizer": str(options.tokenizer.absolute()),
                "blend": [{"prefix": str(prefix.absolute())}],
                "seq_length": options.seq_length,
            },
            "parallel": {
                "use_distributed_optimizer": True,
                "overlap_grad_reduce": True,
                "overlap_param_gather": True,
            },
            "precision": precision,
            "training": {
                "train_iters": options.steps,
                "micro_batch_size": options.micro_batch_size,
                "global_batch_size": options.global_batch_size,
                "log_interval": max(1, options.steps // 20),
                "eval_iters": 0,
            },
            "schedule": {"lr_warmup_iters": options.steps // 10},
            "checkpoint": {"save_interval": options.steps},
            "tracking": {"tensorboard": False},
        },
    )


def train(config: PretrainConfig) -> dict[str, Any]:
    """Measure throughput, memory and losses of our own command; its checkpoint is deleted."""
    run_ours(config)
    rows = [row for row in read_metrics(Path(config.run) / METRICS_NAME) if "lm_loss" in row]
    shutil.rmtree(Path(config.run) / "checkpoints")
    counted = rows[int(WARMUP_SHARE * len(rows)) :]
    names = ("tokens_per_second", "tflops_per_rank", "mfu", "data_wait_share")
    return {
        **{name: statistics.median(row[name] for row in counted) for name in names if name in counted[0]},
        "peak_memory_gib": rows[-1]["peak_memory_gib"],
        "losses": {row["iteration"]: row["lm_loss"] for row in rows},
    }


def train_peer(options: argparse.Namespace, config: PretrainConfig) -> dict[str, Any]:
    """Measure the same for Megatron-LM."""
    cache = options.scratch / "peer_cache"
    command = peer_command(options.peer_python, options.peer, peer_arguments(config, cache))
    output = run(command, PYTHONPATH=f"{options.peer}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    tokens = config.training.global_batch_size * config.data.seq_length
    return read_log(output, tokens, int(WARMUP_SHARE * config.training.train_iters / config.training.log_interval))


def check_resume(options: argparse.Namespace, prefix: Path, model: str) -> dict[str, Any]:
    """Compare a four-layer run in deterministic mode that is stopped halfway with an uninterrupted one."""
    shape, found = {"preset": model, "num_layers": 4}, []
    for name in ("undisturbed", "stopped"):
        config = configure(options, prefix, f"resume_{name}", shape, {"deterministic_mode": True})
        steps = [f"training.train_iters={RESUME_STEPS}", "training.log_interval=1", "checkpoint.save_interval=1000"]
        if name == "stopped":
            run_ours(config, *steps, f"training.exit_interval={RESUME_STEPS // 2}")
        run_ours(config, *steps)
        losses = [row["lm_loss"] for row in read_metrics(Path(config.run) / METRICS_NAME) if "lm_loss" in row]
        checkpoint = Path(config.run) / "checkpoints" / f"iter_{RESUME_STEPS:07d}"
        output = run([sys.executable, str(ROOT / "benchmarks" / "weight_hashes.py"), str(checkpoint)])
        found.append((losses, json.loads(output.splitlines()[-1])))
        shutil.rmtree(config.run)
    (losses, hashes), (resumed_losses, resumed_hashes) = found
    assert len(losses) == RESUME_STEPS and hashes
    return {"same_losses": losses == resumed_losses, "same_weights": hashes == resumed_hashes}


def run_ours(config: PretrainConfig, *overrides: str) -> None:
    """Train with our own command."""
    file = Path(config.run).with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_config(config, file)
    run([sys.executable, str(ROOT / "tools" / "pretrain_gpt.py"), "--config", str(file), *overrides])


def run(command: list[str], **environment: str) -> str:
    """Run a command, and print and return its output."""
    environment = {**os.environ, "CUDA_DEVICE_MAX_CONNECTIONS": "1", **environment}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        sys.stderr.write(line)
        output.append(line)
    if code := process.wait():
        raise subprocess.CalledProcessError(code, command, "".join(output))
    return "".join(output)


if __name__ == "__main__":
    main()
