"""tools/convert_checkpoint.py on a small Mistral: both directions, and what it says of bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset
from safetensors.torch import load_file
from strangers import Payload, largest_shard, pickle_file, pickle_tensor, reseal
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.cli.convert_checkpoint import as_settings, main
from megatron_ipt.cli.preprocess_data import main as preprocess
from megatron_ipt.corpus.manifest import MANIFEST_NAME, read_manifest, record_file, write_manifest

pytestmark = pytest.mark.e2e
CHECKOUT = Path(__file__).resolve().parents[2]
Convert = Callable[..., int]


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
