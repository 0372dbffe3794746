"""Conversions of Hugging Face folders as they are found: chat models with all their files, and broken ones."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_tokenizers import write_gpt2_like
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.cli.convert_checkpoint import main
from megatron_ipt.config.pretrain import CheckpointConfig, DataConfig, PretrainConfig
from megatron_ipt.conversion.carried import find_carried
from megatron_ipt.conversion.sources import ExportSource

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def chat_model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Mistral in fp16 with what belongs to a chat model: two EOS, sampling, templates, README, licence."""
    folder = tmp_path_factory.mktemp("chat") / "hf"
    shutil.copytree(source, folder)
    AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float16).save_pretrained(str(folder))
    ids = {"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0}
    config = json.loads((folder / "config.json").read_text()) | ids
    generation = {**ids, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    written = {
        "config.json": json.dumps(config),
        "generation_config.json": json.dumps(generation),
        "README.md": "# A chat model\n",
        "LICENSE": "Do what you like.\n",
        "chat_template.jinja": "{{ messages[0].content }}",
        "additional_chat_templates/tool_use.jinja": "tools: {{ messages[0].content }}",
    }
    for name, text in written.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def chat_run(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("chat") / "run"
    assert main(["hf-to-mcore", f"--input={chat_model}", f"--output={run}", "parity_check=false"]) == 0
    return run


def test_what_belongs_to_a_model_comes_back_with_it(
    chat_model: Path, chat_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    back = tmp_path / "hf"
    assert main(["mcore-to-hf", f"--input={chat_run}", f"--output={back}"]) == 0
    assert [record.message for record in caplog.records if record.name.startswith("megatron_ipt.conversion")] == [
        "comparing the checkpoint with its hashes",
        "converting the weights",
        "comparing logits with those of transformers",
    ]
    for name in ("generation_config.json", "README.md", "LICENSE"):
        assert (back / name).read_text() == (chat_model / name).read_text()
    config = json.loads((back / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"], config["torch_dtype"]) == ([2, 5], 0, "float16")
    assert AutoTokenizer.from_pretrained(str(back)).chat_template == {
        "default": "{{ messages[0].content }}",
        "tool_use": "tools: {{ messages[0].content }}",
    }
    before, after = (load_file(folder / "model.safetensors") for folder in (chat_model, back))
    assert all(after[name].dtype == torch.float16 and torch.equal(before[name], after[name]) for name in before)
    modes = {file.stat().st_mode & 0o777 for file in back.iterdir() if file.is_file()}
    assert len(modes) == 1


def test_what_belongs_to_a_model_that_was_trained_on(chat_model: Path, chat_run: Path, tmp_path: Path) -> None:
    """Its README describes another model, and another tokenizer has other ids for what ends a text."""
    config = CheckpointConfig(pretrained_checkpoint=str(chat_run))
    run = PretrainConfig(run=str(tmp_path), data=DataConfig(tokenizer=str(chat_model)), checkpoint=config)
    trained = ExportSource(iteration_folder(tmp_path, 7), run, chat_model, "float32")
    carried = find_carried(trained)
    assert carried is not None and carried.token_ids["eos_token_id"] == [2, 5]
    assert [file.name for file in carried.files] == ["LICENSE", "generation_config.json"]
    carried = find_carried(replace(trained, tokenizer=write_gpt2_like(tmp_path / "other")))
    assert carried is not None and carried.token_ids == {}
    assert [file.name for file in carried.files] == ["LICENSE"]
    assert find_carried(replace(trained, run=run.model_copy(update={"checkpoint": CheckpointConfig()}))) is None


def test_broken_files_of_an_import_are_named(
    chat_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(chat_run, run)
    (run / "source_files" / "config.json").write_text("{")
    assert main(["mcore-to-hf", f"--input={run}", f"--output={tmp_path / 'hf'}"]) == 2
    assert "source_files/config.json" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def enlarge_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens(["<pad>"])
    tokenizer.save_pretrained(str(folder))


def mix_formats(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].bfloat16()
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "transformers cannot read it"),
        (lambda folder: (folder / "config.json").write_text("[]"), "transformers cannot read it"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "transformers cannot read it"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "transformers cannot load it"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "transformers cannot load it"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"not"), "not readable"),
        (enlarge_tokenizer, "has 260 entries, the model 259"),
        (mix_formats, "different number formats"),
    ],
)
def test_broken_folder_ends_with_2_and_writes_nothing(
    damage: Callable[[Path], object], said: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(source, folder)
    damage(folder)
    assert main(["hf-to-mcore", f"--input={folder}", f"--output={tmp_path / 'run'}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_output_below_a_file_ends_with_2(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for output in ("file", "file/below"):
        assert main(["hf-to-mcore", f"--input={source}", f"--output={tmp_path / output}"]) == 2
        assert str(tmp_path / "file") in capsys.readouterr().err


def test_values_that_a_format_cannot_hold_leave_nothing_behind(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large, run, output = tmp_path / "large", tmp_path / "run", tmp_path / "hf"
    shutil.copytree(source, large)
    weights = load_file(large / "model.safetensors")
    weights["model.norm.weight"][3] = 70000.0
    save_file(weights, str(large / "model.safetensors"), metadata={"format": "pt"})
    assert main(["hf-to-mcore", f"--input={large}", f"--output={run}", "parity_check=false"]) == 0
    export = ["mcore-to-hf", f"--input={run}", f"--output={output}", "parity_check=false"]
    assert main([*export, "dtype=float16"]) == 2
    assert "1 values: 1 of model.norm.weight" in capsys.readouterr().err
    assert not output.exists()
    assert main(export) == 0


def test_write_that_the_system_refuses_ends_with_2(
    chat_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files, which a test can set; a full disk is reported from the same place."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
    try:
        arguments = ["mcore-to-hf", f"--input={chat_run}", f"--output={tmp_path / 'hf'}", "dtype=float32"]
        assert main([*arguments, "parity_check=false"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)
    assert "File too large" in capsys.readouterr().err
