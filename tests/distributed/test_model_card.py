"""The model card of a model that was imported, trained and exported, and its upload to a hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conversion_jobs
import jobs
import pytest
from huggingface_hub import ModelCard, constants
from pool import WorkerPool
from stub_hub import FULL, TOKEN, Hub, serve_hub
from tiny import VOCAB_SIZE, tiny_config
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from megatron_ipt.cli.convert_checkpoint import main
from megatron_ipt.cli.preprocess_data import main as preprocess
from megatron_ipt.corpus.manifest import Manifest, read_manifest, record_file, write_manifest
from megatron_ipt.evaluation.scores import Metric, Score

pytestmark = pytest.mark.distributed
SHAPE = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}
README = "---\nlicense: cc-by-nc-4.0\nlanguage: [en]\npipeline_tag: other\n---\n# A base\n"


@pytest.fixture(scope="module")
def export(pool: WorkerPool, dataset: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of training from a model with a licence, on preprocessed text; RUN beside it."""
    folder = tmp_path_factory.mktemp("card")
    base = folder / "base-7b"
    AutoTokenizer.from_pretrained(dataset["tokenizer"]).save_pretrained(str(base))
    MistralForCausalLM(MistralConfig(**SHAPE, **HEADS, sliding_window=None, rms_norm_eps=1e-5)).save_pretrained(
        str(base)
    )
    (base / "README.md").write_text(README)
    (base / "LICENSE").write_text("Do what you like.\n")
    run_conversion(pool, "hf-to-mcore", base, folder / "start")
    (folder / "raw.jsonl").write_text("".join(json.dumps({"text": f"t1 t{n} t7 " * 20}) + "\n" for n in range(40)))
    flags = ["--input", str(folder / "raw.jsonl"), "--output-prefix", str(folder / "data" / "x")]
    assert preprocess([*flags, "--tokenizer-model", str(base), "--prepend-bod", "--append-eod"]) == 0
    config = tiny_config(
        dataset,
        folder / "run",
        model={"num_layers": 2},
        data={"tokenizer": str(base), "blend": [{"prefix": str(folder / "data" / "x_text_document")}]},
        training={"train_iters": 2},
        schedule={"lr_warmup_iters": 0},
        checkpoint={"pretrained_checkpoint": str(folder / "start")},
    )
    pool.run(1, jobs.pretrain, config)
    run_conversion(pool, "mcore-to-hf", folder / "run", folder / "hf")
    return folder / "hf"


def run_conversion(pool: WorkerPool, direction: str, source: Path, target: Path) -> None:
    settings: dict[str, Any] = {"direction": direction, "input": str(source), "output": str(target)}
    pool.run(1, conversion_jobs.convert, {**settings, "parity_check": False})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that takes the token in the environment."""
    with serve_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def write_scores(folder: Path, weights: Path) -> Path:
    """The output of an evaluation of the model whose weights are given."""
    folder.mkdir()
    metrics = {"acc": Metric(0.625, 0.0125)}
    score = vars(Score("piqa", "acc", metrics, 0, 1838, 1838, "validation", None, 0.5, ["piqa"])).copy()
    task = score.pop("task")
    score["metrics"] = {name: vars(metric) for name, metric in metrics.items()}
    progress = {"iteration": 2, "consumed_train_tokens": 512}
    (folder / "results.json").write_text(json.dumps({"progress": progress, "tasks": {task: score}}))
    write_manifest(folder, Manifest("evaluate", "complete", {}, inputs=[record_file(weights, folder)]))
    return folder


def push(export: Path, *settings: str) -> int:
    places = [f"input={export.parent / 'run'}", f"output={export}"]
    return main(["direction=mcore-to-hf", *places, "parity_check=false", *settings])


def test_card_tells_where_the_model_comes_from(export: Path) -> None:
    card = ModelCard.load(export / "README.md")
    assert card.data.to_dict() == {
        "language": ["en"],
        "library_name": "transformers",
        "license": "cc-by-nc-4.0",
        "pipeline_tag": "text-generation",
        "tags": ["megatron-ipt"],
    }
    text = " ".join(card.text.split())
    documents = read_manifest(export.parent / "data", "x_text_document.manifest.json")
    assert documents is not None
    for said in (
        "from the weights of base-7b.",
        "license of that model is cc-by-nc-4.0",
        "Its files that are included: LICENSE.",
        f"| x_text_document | 100.0% | 40 | {documents.counts['tokens']:,} |",
        "| iterations | 2 |",
        "| tokens | 512 |",
        "**Text tokenized**",
        f"raw.jsonl `{record_file(export.parent / 'raw.jsonl', export).sha256[:12]}`",
    ):
        assert said in text
    assert str(export.parent) not in card.content
    manifest = read_manifest(export)
    assert manifest is not None and "README.md" in [record.path for record in manifest.outputs]


def test_upload_is_the_folder_with_the_scores_in_its_card(
    export: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_scores(tmp_path / "eval", export / "model.safetensors")
    hub.files["me/model"] = {"model-00001-of-00002.safetensors": b"of another model", "notes.md": b"mine"}
    before = (export / "README.md").read_text()
    assert push(export, "--push", "me/model", f"scores=[{scores}]") == 0
    assert f"{hub.url}/me/model/commit" in capsys.readouterr().out
    files = hub.files["me/model"]
    manifest = read_manifest(export)
    assert manifest is not None
    assert files.keys() == {*(record.path for record in manifest.outputs), "notes.md"}
    assert all(files[name] == (export / name).read_bytes() for name in files if name not in ("README.md", "notes.md"))
    card = ModelCard(files["README.md"].decode())
    [result] = card.data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("piqa", "acc", 0.625)
    assert "# model\n" in card.text and "| piqa | acc | 0 | 62.5 ± 1.2 |" in card.text
    assert (export / "README.md").read_text() == before
    assert push(export, "--push=me/other") == 0
    assert hub.is_private["me/other"] and files["model.safetensors"] == hub.files["me/other"]["model.safetensors"]


@pytest.mark.parametrize(
    ("settings", "token", "code", "said"),
    [
        (["push=me/model"], "", 2, "there is no token"),
        (["push=me/model"], "hf_of_another", 2, "the hub answered 401"),
        ([f"push={FULL}/model"], TOKEN, 75, "the hub answered 500"),
        (["push=model"], TOKEN, 2, "give it as OWNER/NAME"),
        (["push=me/my model"], TOKEN, 2, "give it as OWNER/NAME"),
        (["push=me/model", "direction=hf-to-mcore"], TOKEN, 2, "only a Hugging Face folder"),
        (["scores=[{scores}]"], TOKEN, 2, "set push, or leave scores out"),
        (["push=me/model", "scores=[{scores}]"], TOKEN, 2, "a model with other weights"),
        (["push=me/model", "scores=[nowhere]"], TOKEN, 2, "no finished evaluation"),
    ],
)
def test_upload_that_cannot_be(
    settings: list[str],
    token: str,
    code: int,
    said: str,
    export: Path,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    scores = write_scores(tmp_path / "eval", export / "config.json")
    given = [setting.format(scores=scores) for setting in settings]
    assert push(export, *given) == code
    assert said in capsys.readouterr().err
    assert not any(hub.files.values())


def test_hub_that_is_not_there(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(export, "push=me/model") == 75
    assert "cannot be reached" in capsys.readouterr().err
