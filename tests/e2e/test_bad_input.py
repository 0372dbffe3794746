"""Bad input: one screen that names field, value, reason and remedy, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.config.loading import config_from, save_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.indexed_writer import IndexedWriter

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def refuse(tool: str, *arguments: str) -> str:
    """Run a tool that must refuse; what it says."""
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    said = result.stdout + result.stderr
    assert result.returncode == 2, said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 40
    assert "why:" in said and "remedy:" in said
    return said


@pytest.fixture(scope="module")
def training(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound training configuration in config.yaml, its data beside it."""
    folder = tmp_path_factory.mktemp("training")
    with IndexedWriter(folder / "data", 32000) as writer:
        writer.add(np.arange(30_000, dtype=np.uint16), np.full(100, 300))
    config = config_from(
        PretrainConfig,
        {
            "run": str(folder / "run"),
            "model": {"preset": "tiny-mistral"},
            "data": {
                "tokenizer": str(quickstart_inputs / "tokenizer"),
                "blend": [{"prefix": str(folder / "data")}],
                "seq_length": 128,
            },
            "precision": {"bf16": False},
        },
    )
    save_config(config, folder / "config.yaml")
    return folder


def refuse_training(training: Path, *overrides: str) -> str:
    return refuse("pretrain_gpt.py", "--config", str(training / "config.yaml"), *overrides)


def test_unknown_key_with_the_nearest_known_one(training: Path) -> None:
    assert "did you mean training.train_iters?" in refuse_training(training, "training.train_iter=5")


def test_tensor_parallel_size_that_does_not_divide_heads(training: Path) -> None:
    said = refuse_training(training, "parallel.tensor_model_parallel_size=3")
    assert "does not divide model.num_attention_heads = 4" in said


def test_missing_configuration_file() -> None:
    assert "nowhere.yaml" in refuse("pretrain_gpt.py", "--config", "nowhere.yaml")


def test_missing_data(training: Path) -> None:
    assert "no such file" in refuse_training(training, "data.blend=[{prefix: nowhere}]")


def test_tokenizer_larger_than_the_model(training: Path, quickstart_inputs: Path) -> None:
    said = refuse_training(training, f"data.tokenizer={quickstart_inputs / 'smollm2'}")
    assert "model.vocab_size = 32000" in said and "49152" in said


def test_fp8_without_transformer_engine(training: Path) -> None:
    assert "precision.fp8 = hybrid" in refuse_training(training, "precision.fp8=hybrid")


def begin_run(training: Path, run: Path) -> None:
    """What binds a run to its configuration: the configuration, and a checkpoint."""
    shutil.copy(training / "config.yaml", run / "run_config.yaml")
    iteration_folder(run, 10).mkdir(parents=True)


def test_resume_with_another_architecture(training: Path, tmp_path: Path) -> None:
    begin_run(training, tmp_path)
    said = refuse_training(training, f"run={tmp_path}", "model.num_layers=6")
    assert "num_layers is 4 in the checkpoint, 6 in this configuration" in said


def test_resume_with_another_kind_of_optimizer_state(training: Path, tmp_path: Path) -> None:
    begin_run(training, tmp_path)
    assert "use_distributed_optimizer" in refuse_training(
        training, f"run={tmp_path}", "parallel.use_distributed_optimizer=true"
    )


def test_truncated_data(training: Path, tmp_path: Path) -> None:
    for ending in (".bin", ".idx"):
        shutil.copy(training / f"data{ending}", tmp_path)
    (tmp_path / "data.bin").write_bytes((tmp_path / "data.bin").read_bytes()[:-100])
    assert "truncated" in refuse_training(training, f"data.blend=[{{prefix: {tmp_path / 'data'}}}]")


def test_part_of_the_data_without_a_document(training: Path) -> None:
    said = refuse_training(training, "data.split='999,1,0'")
    assert "data.split = 999,1,0" in said and "that has a token is assigned to validation" in said


def test_all_problems_are_told_at_once(training: Path) -> None:
    said = refuse_training(training, "data.blend=[{prefix: nowhere}]", "data.tokenizer=nowhere", "precision.fp8=e4m3")
    assert " errors\n" in said
    assert all(name in said for name in ("precision.fp8", "nowhere.idx", "tokenizer"))


LATE_MAIN_RANK = """
import os, time
if os.environ["RANK"] == "0":
    time.sleep(3)
from megatron_ipt.cli.pretrain_gpt import main
raise SystemExit(main(["--config", "nowhere.yaml"]))
"""


def test_torchrun_does_not_swallow_the_message_of_a_main_rank_that_is_late(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE_MAIN_RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(tmp_path / "late.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stderr.count("remedy: give an existing YAML file") == 1
    assert "--config = nowhere.yaml" in done.stderr


def test_output_that_cannot_be_written_is_named_by_every_stage(
    training: Path, quickstart_inputs: Path, tmp_path: Path
) -> None:
    with (quickstart_inputs / "raw" / "boolq.jsonl").open(encoding="utf-8") as lines:
        (tmp_path / "raw.jsonl").write_text(next(lines), encoding="utf-8")
    (tmp_path / "file").touch()
    raw, output = tmp_path / "raw.jsonl", tmp_path / "file" / "output"
    model, tokenizer = quickstart_inputs / "smollm2", quickstart_inputs / "tokenizer"
    flags = ["--input", str(raw), "--output-prefix", str(output), "--tokenizer-model", str(tokenizer)]
    data, mixture = training / "data", ["variants.v.a.epochs=1", "global_batch_size=1", "seq_length=64"]
    stages = {
        "preprocess_data.py": flags,
        "synthesize_instructions.py": [f"input=[{raw}]", f"engine.model={model}", f"output={output}"],
        "build_mixture.py": [f"datasets.a={data}", *mixture, "split='90,10,0'", f"output={output}"],
        "evaluate_model.py": [f"model={model}", f"data_dir={quickstart_inputs / 'eval'}", f"output={output}"],
    }
    for tool, arguments in stages.items():
        said = refuse(tool, *arguments)
        assert f"file = {output}" in said, tool
        assert "Not a directory" in said, tool


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("synthesize_instructions.py", ["input=[nowhere.jsonl]", "output=/tmp/none", "engine.model=nowhere"]),
        ("preprocess_data.py", ["--input", "nowhere.jsonl", "--output-prefix", "x", "--tokenizer-model", "nowhere"]),
        ("convert_checkpoint.py", ["mcore-to-hf", "--input", "nowhere", "--output", "x"]),
        ("evaluate_model.py", ["model=./nowhere", "output=x"]),
        ("build_mixture.py", ["datasets.a=nowhere", "variants.v.a.epochs=1", "output=x", "global_batch_size=1"]),
        ("score_synthesizer.py", ["input=[nowhere.jsonl]", "models.a.engine.model=nowhere", "output=x"]),
    ],
)
def test_every_tool_names_what_is_missing(tool: str, arguments: list[str]) -> None:
    assert "nowhere" in refuse(tool, *arguments)
