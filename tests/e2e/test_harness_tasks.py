"""Any task of lm-evaluation-harness, own suites and the domain suites give the numbers they stand for."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.harness import definitions_folder
from megatron_ipt.evaluation.stage import evaluate, open_evaluation
from megatron_ipt.evaluation.suite import load_suite

pytestmark = pytest.mark.e2e

LIMIT = 5
UPSTREAM = {
    "piqa": ("piqa/piqa.yaml", "piqa.validation", 0),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag.validation", 0),
    "winogrande": ("winogrande/default.yaml", "winogrande.validation", 2),
    "social_iqa": ("siqa/siqa.yaml", "social_iqa.validation", 1),
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy.test", 2),
    "arc_challenge": ("arc/arc_challenge.yaml", "arc_challenge.test", 0),
    "openbookqa": ("openbookqa/openbookqa.yaml", "openbookqa.test", 1),
    "boolq": ("super_glue/boolq/default.yaml", "boolq.validation", 0),
}
SENTENCES = [
    "The river rises in the hills and falls into the sea after forty miles.",
    "Bread is made of flour, water and salt; yeast makes it rise.",
    "In winter the lake is closed, and its keeper mends the boats.",
    "A clock with one hand shows the hours but not the minutes.",
    "Nobody had seen the bridge since the flood of the year before.",
]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def task_folder(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven tasks on local files: eight of the harness's own, and three whose metrics are no accuracy."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, (definition, stem, shots) in UPSTREAM.items():
        file = folder / "rows" / f"{stem}.jsonl"
        file.parent.mkdir(exist_ok=True)
        with gzip.open(quickstart_inputs / "eval" / f"{stem}.jsonl.gz", "rb") as packed:
            file.write_bytes(packed.read())
        split = stem.partition(".")[2]
        other = "validation" if split == "test" else "test"
        task = {
            "include": str(definitions_folder() / definition),
            "task": f"{name}_here",
            "tag": "here",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(file)}},
            "training_split": None,
            f"{split}_split": split,
            f"{other}_split": None,
            "fewshot_split": split,
            "num_fewshot": shots,
        }
        write_task(folder, task)
    halves = [{"start": text[:-8], "end": text[-8:], "text": text} for text in SENTENCES]
    rows = {
        "dataset_path": "json",
        "test_split": "test",
        "tag": "here",
        "dataset_kwargs": {"data_files": {"test": str(write_rows(folder / "rows" / "halves.jsonl", halves))}},
    }
    write_task(
        folder,
        {
            **rows,
            "task": "ends_here",
            "output_type": "loglikelihood",
            "doc_to_text": "start",
            "doc_to_target": "end",
            "metric_list": [
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            ],
        },
    )
    write_task(
        folder,
        {
            **rows,
            "task": "whole_here",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": [
                {"metric": name, "higher_is_better": False}
                for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
            ],
        },
    )
    write_task(
        folder,
        {
            **rows,
            "task": "said_here",
            "output_type": "generate_until",
            "doc_to_text": "start",
            "doc_to_target": "end",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
            "filter_list": [
                {"name": "all", "filter": [{"function": "take_first"}]},
                {
                    "name": "word",
                    "filter": [{"function": "regex", "regex_pattern": r"(\w+)"}, {"function": "take_first"}],
                },
            ],
            "metric_list": [{"metric": name, "higher_is_better": True} for name in ("exact_match", "bleu")],
        },
    )
    return folder


def write_task(folder: Path, task: dict[str, Any]) -> None:
    (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def scores_of(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {metric: share["value"] for metric, share in task["metrics"].items()}
        for name, task in results["tasks"].items()
    }


def own_scores(model: Path, tasks: list[str], folder: Path, arguments: dict[str, Any], **settings: Any) -> Any:
    """What lm-evaluation-harness itself gives, called as from its command line, for all tasks at once."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32", **arguments},
        tasks=tasks,
        batch_size=1,
        device="cpu",
        limit=LIMIT,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        **settings,
    )
    assert results is not None
    return {
        name: {key.removesuffix(",none"): value for key, value in values.items() if "," in key and "_stderr" not in key}
        for name, values in results["results"].items()
    }


def test_ten_tasks_give_the_harnesss_own_numbers(model_folder: Path, task_folder: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(
        model=str(model_folder),
        output=str(tmp_path / "out"),
        tasks=["here"],
        include_path=[str(task_folder)],
        limit=LIMIT,
        batch_size="1",
        device="cpu",
    )
    ours = evaluate(open_evaluation(config))
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 1234)
    theirs = own_scores(model_folder, ["here"], task_folder, {"add_bos_token": True}, **seeds)
    assert len(theirs) == 11
    assert scores_of(ours) == theirs
    assert {task["metric"] for task in ours["tasks"].values()} >= {"acc_norm", "acc", "word_perplexity"}
    assert ours["tasks"]["said_here"]["metric"] == "exact_match,all"
    assert ours["average"] is None  # a perplexity is no share
    assert "exact_match,word" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("chat", [False, True])
def test_settings_reach_the_harness(chat: bool, model_folder: Path, task_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = shutil.copytree(model_folder, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "
    tokenizer.save_pretrained(model)
    names = ["boolq_here", "openbookqa_here"]
    given = {"apply_chat_template": chat, "fewshot_as_multiturn": False, "system_instruction": "Answer."}
    config = EvaluateConfig(
        model=str(model),
        output=str(tmp_path / "out"),
        tasks=names,
        include_path=[str(task_folder)],
        limit=LIMIT,
        batch_size="1",
        device="cpu",
        model_args={"max_length": 300},
        num_fewshot=1,
        seed=7,
        **given,
    )
    ours = evaluate(open_evaluation(config))
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 7)
    arguments = {"add_bos_token": not chat, "max_length": 300}
    theirs = own_scores(model, names, task_folder, arguments, num_fewshot=None, **given, **seeds)
    asked = json.loads((tmp_path / "out" / "samples" / "openbookqa_here.jsonl").read_text().splitlines()[0])
    assert asked["arguments"]["gen_args_0"]["arg_0"].startswith("[system] Answer." if chat else "Answer.")
    assert scores_of(ours)["openbookqa_here"] == theirs["openbookqa_here"]
    assert ours["setting"]["max_length_tokens"] == 300


def test_one_file_adds_a_suite(model_folder: Path, task_folder: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    tasks = [{"task": "arc_easy_here", "chance": 0.25, "metric": "acc"}, {"task": "piqa_here", "chance": 0.5}]
    suite.write_text(yaml.safe_dump({"tasks": tasks, "include_path": [str(task_folder)]}), encoding="utf-8")
    config = EvaluateConfig(
        model=str(model_folder), output=str(tmp_path / "out"), suite=str(suite), limit=LIMIT, device="cpu"
    )
    results = evaluate(open_evaluation(config))
    shown = {name: (task["metric"], task["chance"]) for name, task in results["tasks"].items()}
    assert shown == {"arc_easy_here": ("acc", 0.25), "piqa_here": ("acc_norm", 0.5)}
    values = [task["metrics"][task["metric"]]["value"] for task in results["tasks"].values()]
    assert results["average"] == pytest.approx(sum(values) / 2)
    suite.write_text(yaml.safe_dump({"tasks": [{"task": "piqa", "shots": 3}]}), encoding="utf-8")
    with pytest.raises(UserError, match="shots"):
        load_suite(str(suite))


def test_unknown_task_is_refused_before_the_model_is_loaded(
    model_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    config = EvaluateConfig(
        model=str(model_folder), output=str(tmp_path / "out"), tasks=["pica_here"], include_path=[str(task_folder)]
    )
    with pytest.raises(UserError, match="did you mean piqa_here"):
        evaluate(open_evaluation(config))
    assert not (tmp_path / "out").exists()
