"""tools/convert_checkpoint.py on a small Mistral: both directions, and what it says of bad input."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset
from safetensors.torch import load_file, save_file
from small_tokenizers import write_gpt2_like
from strangers import Payload, largest_shard, pickle_file, pickle_tensor, reseal
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.cli.convert_checkpoint import as_settings, main
from megatron_ipt.cli.preprocess_data import main as preprocess
from megatron_ipt.config.pretrain import CheckpointConfig, DataConfig, PretrainConfig
from megatron_ipt.conversion.carried import find_carried
from megatron_ipt.conversion.sources import ExportSource
from megatron_ipt.corpus.manifest import MANIFEST_NAME, read_manifest, record_file, write_manifest

pytestmark = pytest.mark.e2e
CHECKOUT = Path(__file__).resolve().parents[2]
Convert = Callable[..., int]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mistral over bytes, whose window is shorter than the parity texts."""
    folder = tmp_path_factory.mktemp("source")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(str(folder))
    torch.manual_seed(0)
    MistralForCausalLM(
        MistralConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=256,
            sliding_window=32,
            initializer_range=0.1,
        )
    ).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Mistral as a checkpoint, converted by the script in a process of its own."""
    output = tmp_path_factory.mktemp("core") / "run"
    script = [sys.executable, "tools/convert_checkpoint.py", "hf-to-mcore", "--input", source, "--output", output]
    subprocess.run(script, check=True, cwd=CHECKOUT)
    return output


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "damaged"
    shutil.copytree(run, copy)
    shard = next(iteration_folder(copy, 0).glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    return copy


def test_the_exported_folder_is_the_model(source: Path, run: Path, tmp_path: Path) -> None:
    config = tmp_path / "convert.yaml"
    config.write_text(f"direction: mcore-to-hf\ninput: {run}\noutput: {tmp_path / 'hf'}\n")
    assert main(["--config", str(config), "parity_tolerance=1e-4"]) == 0

    parity = json.loads((tmp_path / "hf" / "parity.json").read_text())
    assert parity["passed"]
    assert parity["max_abs_logit_difference"] < 1e-4
    assert parity["tokens_compared"] == 2 * 256

    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "hf"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "hf"))
    assert model.config.sliding_window == 32
    assert (model.config.bos_token_id, model.config.eos_token_id) == (1, 2)
    assert GenerationConfig.from_pretrained(str(tmp_path / "hf")).eos_token_id == 2
    ids = model.generate(**tokenizer("a b", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert ids.shape == (1, 6)


def test_the_exported_tokenizer_does_what_preprocessing_did(source: Path, run: Path, tmp_path: Path) -> None:
    """The source's tokenizer puts no BOS; the training data has one in front of each document."""
    text = " a <s>struck</s> text\n"
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    flags = ["--input", str(tmp_path / "data.jsonl"), "--output-prefix", str(tmp_path / "data" / "x")]
    assert preprocess([*flags, "--tokenizer-model", str(source), "--prepend-bod", "--append-eod"]) == 0
    trained, output = tmp_path / "run", tmp_path / "hf"
    shutil.copytree(run, trained)
    checkpoint = iteration_folder(trained, 0)
    manifest = read_manifest(checkpoint)
    assert manifest is not None
    data = record_file(tmp_path / "data" / "x_text_document.bin", checkpoint)
    write_manifest(checkpoint, replace(manifest, inputs=[data]))
    assert main(["mcore-to-hf", f"--input={trained}", f"--output={output}", "parity_check=false"]) == 0
    documents = IndexedDataset(str(tmp_path / "data" / "x_text_document"))  # its rows live as long as it does
    document = documents[0].tolist()
    exported = AutoTokenizer.from_pretrained(str(output))
    assert [*exported(text, split_special_tokens=True)["input_ids"], 2] == document
    assert (document[0], document.count(1), document.count(2)) == (1, 1, 1)
    written = read_manifest(output)
    assert written is not None and written.counts["tokenizer"]["puts_bos"] is True


def test_what_is_done_is_skipped(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["mcore-to-hf", "--input", str(run), "--output", str(tmp_path / "hf"), "parity_check=false"]
    assert main(arguments) == 0
    written = (tmp_path / "hf" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert main(arguments) == 0
    assert "skipped" in capsys.readouterr().out
    assert (tmp_path / "hf" / "model.safetensors").stat().st_mtime_ns == written
    assert main(arguments[:-1]) == 0
    assert json.loads((tmp_path / "hf" / "parity.json").read_text())["passed"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_rounded_as_asked(dtype: str, run: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "hf"
    assert main(["mcore-to-hf", f"--input={run}", f"--output={output}", f"dtype={dtype}", "parity_tolerance=1e-4"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (source, output))
    assert all(torch.equal(before[name].to(getattr(torch, dtype)), after[name]) for name in before)
    assert json.loads((output / "config.json").read_text())["torch_dtype"] == dtype


def test_bf16_weights_stay_as_they_are(source: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(source, half)
    AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.bfloat16).save_pretrained(str(half))
    assert main(["hf-to-mcore", f"--input={half}", f"--output={tmp_path / 'run'}"]) == 0
    assert main(["mcore-to-hf", f"--input={tmp_path / 'run'}", f"--output={tmp_path / 'hf'}"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (half, tmp_path / "hf"))
    assert all(after[name].dtype == torch.bfloat16 and torch.equal(before[name], after[name]) for name in before)


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


def test_what_belongs_to_a_model_comes_back_with_it(chat_model: Path, chat_run: Path, tmp_path: Path) -> None:
    back = tmp_path / "hf"
    assert main(["mcore-to-hf", f"--input={chat_run}", f"--output={back}"]) == 0
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


def test_unlike_logits_end_with_1(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounding alone exceeds a tolerance of zero; a wrong weight is the subject of another test."""
    arguments = ["mcore-to-hf", "--input", str(run), "--output", str(tmp_path / "hf"), "parity_tolerance=0"]
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 1
    assert "largest logit difference" in capsys.readouterr().err
    assert not json.loads((tmp_path / "hf" / "parity.json").read_text())["passed"]
    assert json.loads((tmp_path / "hf" / "manifest.json").read_text())["status"] == "running"


def test_conversion_that_failed_parity_is_not_taken(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    into_core = ["hf-to-mcore", f"--input={source}", f"--output={output}"]
    out_of_core = ["mcore-to-hf", f"--input={output}", f"--output={tmp_path / 'hf'}", "parity_check=false"]
    with pytest.raises(SystemExit):
        main([*into_core, "parity_tolerance=0"])
    assert not iteration_folder(output, 0).exists()
    assert main(out_of_core) == 2
    assert "no finished checkpoint" in capsys.readouterr().err
    assert main([*into_core, "parity_check=false"]) == 0
    assert not (output / "parity.json").exists()  # that of the attempt before
    assert main(out_of_core) == 0


def test_conversion_that_was_killed_is_not_taken(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "killed"
    shutil.copytree(run, copy)
    manifest = read_manifest(copy)
    assert manifest is not None
    write_manifest(copy, replace(manifest, status="running", outputs=[]))
    for named in (copy, iteration_folder(copy, 0)):
        assert main(["mcore-to-hf", f"--input={named}", f"--output={tmp_path / 'hf'}"]) == 2
        assert "no finished checkpoint" in capsys.readouterr().err


def test_one_wrong_weight_is_seen(source: Path) -> None:
    from megatron_ipt.config.pretrain import ParallelConfig
    from megatron_ipt.conversion.core_model import build_core_model, fill_from_hf
    from megatron_ipt.conversion.hf_config import read_model_config
    from megatron_ipt.conversion.hf_weights import HfWeights
    from megatron_ipt.conversion.model_tokenizer import open_model_tokenizer, parity_tokens
    from megatron_ipt.conversion.parity import compare_logits
    from megatron_ipt.parallel.groups import initialize, shutdown

    groups = initialize(ParallelConfig(), seed=1)
    model = read_model_config(source)
    tokens = parity_tokens(open_model_tokenizer(source, model), 256)
    core = build_core_model(model, groups, bf16=False, seq_length=256)
    fill_from_hf(core, HfWeights(source))
    assert compare_logits(core, source, tokens, 1e-4).passed
    with torch.no_grad():
        core.parameters()["decoder.layers.1.mlp.linear_fc2.weight"][0, 0] += 0.5
    assert not compare_logits(core, source, tokens, 1e-4).passed
    shutdown()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mcore-to-hf", "--input={nowhere}", "--output={output}"], "no finished checkpoint"),
        (["mcore-to-hf", "--input={damaged}", "--output={output}"], "has changed since it was saved"),
        (["mcore-to-hf", "--input={run}", "--output={output}", "dtype=int8"], "not one of float32, bfloat16, float16"),
        (["mcore-to-hf", "--input={run}", "--output={output}", "--tokenizer={nowhere}"], "holds no tokenizer"),
        (["mcore-to-hf", "--input={run}", "--output={source}"], "files that no stage"),
        (["mcore-to-hf", "--input={run}", "--output={output}", "dtpye=float16"], "did you mean dtype?"),
        (["direction=mcore2hf", "--input={run}", "--output={output}"], "not one of mcore-to-hf, hf-to-mcore"),
        (["hf-to-mcore", "--input={nowhere}", "--output={output}"], "no config.json"),
    ],
)
def test_bad_input_ends_with_2(
    arguments: list[str],
    said: str,
    run: Path,
    source: Path,
    damaged: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"run": run, "source": source, "damaged": damaged, "output": tmp_path / "o", "nowhere": tmp_path / "n"}
    assert main([argument.format(**places) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.splitlines()) < 20


@pytest.mark.parametrize(
    ("name", "put_into"),
    [
        (".metadata", pickle_file),
        ("common.pt", pickle_file),
        ("metadata.json", pickle_file),
        ("*.distcp", pickle_tensor),
    ],
)
def test_checkpoint_of_a_stranger_runs_no_code(
    name: str, put_into: Callable[[Path, Payload], None], run: Path, tmp_path: Path
) -> None:
    copy, proof = tmp_path / "stranger", tmp_path / "proof"
    shutil.copytree(run, copy)
    checkpoint = iteration_folder(copy, 0)
    file = largest_shard(checkpoint) if name == "*.distcp" else checkpoint / name
    put_into(file, Payload(proof))
    reseal(checkpoint)
    (checkpoint / MANIFEST_NAME).unlink()
    assert main(["mcore-to-hf", f"--input={copy}", f"--output={tmp_path / 'hf'}"]) == 2
    assert not proof.exists()


def test_flags_and_settings_mix_in_any_order() -> None:
    given = ["mcore-to-hf", "--input", "a", "dtype=float16", "--output=b", "--config", "f.yaml"]
    assert as_settings(given) == [
        "--config",
        "f.yaml",
        "dtype=float16",
        "direction=mcore-to-hf",
        "input=a",
        "output=b",
    ]
