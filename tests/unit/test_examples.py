"""Every shipped YAML loads, and every shipped training run fits the number of ranks its README starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config.checks import find_problems
from megatron_ipt.config.layout import data_parallel_size
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.stages import ConvertConfig, PreprocessConfig
from megatron_ipt.config.tuning_set import TuningSetConfig
from megatron_ipt.mixing.mixtures import plan_mixtures
from megatron_ipt.stages import stage_of_config

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(folder for folder in EXAMPLES.iterdir() if (folder / "README.md").is_file())
CORPUS_FOLDERS = [folder for folder in FOLDERS if (folder / "synthesize.yaml").is_file()]
FILES = sorted(EXAMPLES.glob("*/*.yaml"))
CORPUS_STAGES = ("synthesize", "preprocess", "pretrain", "convert", "evaluate")
PAPER_BATCH_TOKENS = {
    "general_500m": (200_000, 0.5e6),
    "general_1b": (100_000, 1e6),
    "medicine_llama3_8b": (4_000, 0.25e6),
    "finance_llama3_8b": (4_000, 0.25e6),
    "synthesizer": (61_000, 16_384),
}


def load(file: Path) -> Any:
    spec = stage_of_config(file)
    assert spec is not None, file
    return load_config(spec.load_schema(), file)


def read(folder: Path, stage: str) -> Any:
    return load(folder / f"{stage}.yaml")


def world_size_in_readme(folder: Path) -> int:
    """Ranks of the torchrun line; the quick start's README leaves it to run.sh."""
    texts = [file.read_text(encoding="utf-8") for name in ("README.md", "run.sh") if (file := folder / name).is_file()]
    sizes = {int(size) for size in re.findall(r"torchrun --nproc-per-node (\d+)", "\n".join(texts))}
    assert len(sizes) == 1, f"{folder.name} names {sizes} ranks"
    return sizes.pop()


def identify(path: Path) -> str:
    return str(path.relative_to(EXAMPLES))


@pytest.mark.parametrize("file", FILES, ids=identify)
def test_every_file_loads(file: Path) -> None:
    load(file)


@pytest.mark.parametrize("folder", CORPUS_FOLDERS, ids=identify)
def test_folder_of_a_corpus_has_a_file_for_every_stage(folder: Path) -> None:
    assert {f"{stage}.yaml" for stage in CORPUS_STAGES} <= {file.name for file in folder.glob("*.yaml")}


@pytest.mark.parametrize("folder", FOLDERS, ids=identify)
def test_readme_names_every_file(folder: Path) -> None:
    files = {file.name for file in folder.glob("*.yaml")}
    text = "\n".join(file.read_text(encoding="utf-8") for file in folder.iterdir() if file.suffix in {".md", ".sh"})
    assert {name for name in files if name not in text} == set()


@pytest.mark.parametrize("folder", FOLDERS, ids=identify)
def test_training_run_is_sound_on_the_ranks_its_readme_starts(folder: Path) -> None:
    config = read(folder, "pretrain")
    world_size = world_size_in_readme(folder)
    assert find_problems(config, world_size) == []
    assert data_parallel_size(config.parallel, world_size) * config.training.micro_batch_size >= 1


def mixed_datasets(folder: Path) -> set[str]:
    return set(read(folder, "mix").datasets.values()) if (folder / "mix.yaml").is_file() else set()


def tuning_set_prefix() -> str:
    return f"{read(EXAMPLES / 'synthesizer', 'build_tuning_set').output}/tuning_text_document"


@pytest.mark.parametrize("folder", [file.parent for file in FILES if file.name == "mix.yaml"], ids=identify)
def test_mixture_is_of_the_training_run_that_takes_it(folder: Path) -> None:
    mix, pretrain = read(folder, "mix"), read(folder, "pretrain")
    assert (mix.seq_length, mix.split) == (pretrain.data.seq_length, pretrain.data.split)
    assert mix.global_batch_size == pretrain.training.global_batch_size
    assert mix.tokens == pretrain.training.train_iters * mix.global_batch_size * mix.seq_length
    plans = plan_mixtures(mix, dict.fromkeys(mix.datasets, 10**9))
    assert all(sum(draw.tokens for draw in draws.values()) == mix.tokens for draws in plans.values())


@pytest.mark.parametrize("folder", CORPUS_FOLDERS, ids=identify)
def test_stages_hand_their_files_to_each_other(folder: Path) -> None:
    pretrain, convert, evaluate = (read(folder, stage) for stage in ("pretrain", "convert", "evaluate"))
    preprocessed = [load_config(PreprocessConfig, file) for file in sorted(folder.glob("preprocess*.yaml"))]
    written = {f"{config.output_prefix}_{key}_document" for config in preprocessed for key in config.json_keys}
    blend, mixed = {entry.prefix for entry in pretrain.data.blend}, mixed_datasets(folder)
    assert blend <= written <= blend | mixed
    assert mixed <= written | {tuning_set_prefix()}
    assert {config.tokenizer_model for config in preprocessed} == {pretrain.data.tokenizer}
    augmented = Path(read(folder, "synthesize").output)
    assert any(Path(pattern).parent == augmented for config in preprocessed for pattern in config.input)
    assert (convert.input, convert.output) == (pretrain.run, evaluate.model)
    assert evaluate.run == pretrain.run


@pytest.mark.parametrize("suffix", ["", "_cpu"])
def test_synthesizers_stages_hand_their_files_to_each_other(suffix: str) -> None:
    names = {"build_tuning_set": TuningSetConfig, "pretrain": PretrainConfig, "convert": ConvertConfig}
    files = {name: EXAMPLES / "synthesizer" / f"{name}{suffix}.yaml" for name in (*names, "convert_base")}
    tuning_set, pretrain, convert = (load_config(schema, files[name]) for name, schema in names.items())
    base = load_config(ConvertConfig, files["convert_base"])
    assert find_problems(pretrain, 1 if suffix else 8) == []
    assert [entry.prefix for entry in pretrain.data.blend] == [f"{tuning_set.output}/tuning_text_document"]
    assert (tuning_set.seq_length, tuning_set.tokenizer) == (pretrain.data.seq_length, pretrain.data.tokenizer)
    assert base.input == pretrain.data.tokenizer
    assert Path(base.output) in Path(pretrain.checkpoint.pretrained_checkpoint).parents
    assert convert.input == pretrain.run


@pytest.mark.parametrize("suffix", ["", "_cpu"])
def test_stages_of_instruction_tuning_hand_their_files_to_each_other(suffix: str) -> None:
    stages = ("build_chat_set", "pretrain", "convert", "evaluate")
    chat_set, pretrain, convert, evaluate = (read(EXAMPLES / "instruction_tuning", f"{one}{suffix}") for one in stages)
    assert find_problems(pretrain, 1 if suffix else 8) == []
    assert [entry.prefix for entry in pretrain.data.blend] == [f"{chat_set.output}/chat_text_document"]
    assert (chat_set.seq_length, chat_set.tokenizer) == (pretrain.data.seq_length, pretrain.data.tokenizer)
    assert (convert.input, convert.output, evaluate.run) == (pretrain.run, evaluate.model, pretrain.run)
    assert chat_set.chat_template is None or Path(EXAMPLES.parent, chat_set.chat_template).is_file()
    base = read(EXAMPLES / "instruction_tuning", "convert_base_cpu").output if suffix else "runs/general_1b/run"
    assert pretrain.checkpoint.pretrained_checkpoint.startswith(base)


@pytest.mark.parametrize("name", PAPER_BATCH_TOKENS)
def test_steps_and_tokens_a_step_are_the_papers(name: str) -> None:
    config = read(EXAMPLES / name, "pretrain")
    steps, tokens = PAPER_BATCH_TOKENS[name]
    assert config.training.train_iters == steps
    assert config.training.global_batch_size * config.data.seq_length == pytest.approx(tokens, rel=0.05)


@pytest.mark.parametrize("folder", FOLDERS, ids=identify)
def test_documents_begin_with_bos_and_end_with_eos(folder: Path) -> None:
    for file in folder.glob("preprocess*.yaml"):
        config = load_config(PreprocessConfig, file)
        assert (config.prepend_bod, config.append_eod) == (True, True)
