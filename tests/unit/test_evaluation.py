"""Suites, local task files and lineage of evaluation."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.corpus.lineage import trace_lineage
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.local_data import check_local_rows, find_local_tasks
from megatron_ipt.evaluation.planning import plan_call
from megatron_ipt.evaluation.stage import open_evaluation
from megatron_ipt.evaluation.suite import choose_tasks, load_suite
from megatron_ipt.evaluation.task_files import local_name
from megatron_ipt.reporting.rows import lineage_rows

SUITE = load_suite("general")
GENERAL = list(SUITE.tasks)
PIQA_ROW = {"goal": "Dry a shirt", "sol1": "Hang it in the sun.", "sol2": "Put it in water.", "label": 0}


def write_rows(file: Path, *rows: object) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def problem_of(error: pytest.ExceptionInfo[UserError]) -> str:
    return str(error.value)


def test_general_suite_is_the_model_cards() -> None:
    shots = {task.name: task.num_fewshot for task in choose_tasks(SUITE, None)}
    assert [name for name, count in shots.items() if count == 0] == ["piqa", "hellaswag", "winogrande"]
    fewshot = ["social_iqa", "arc_easy", "arc_challenge", "openbookqa", "boolq", "mmlu"]
    assert [name for name, count in shots.items() if count == 5] == fewshot


def test_arc_names_both_of_its_tasks() -> None:
    assert [task.name for task in choose_tasks(SUITE, ["ai2_arc"])] == ["arc_easy", "arc_challenge"]


def test_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean general"):
        load_suite("genral")


def test_task_without_file_is_left_out_by_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "piqa.validation.jsonl", PIQA_ROW)
    found, left_out = find_local_tasks(tmp_path, GENERAL)
    assert [local.task.name for local in found] == ["piqa"]
    assert [task.name for task in left_out] == [task.name for task in GENERAL[1:]]
    assert "arc_easy.test.jsonl[.gz] or arc_easy.validation.jsonl[.gz]" in left_out[3].reason


def test_examples_come_from_training_split_else_from_the_evaluated_one(tmp_path: Path) -> None:
    row = {"passage": "Rain is wet.", "question": "is rain wet", "label": 1}
    write_rows(tmp_path / "boolq.validation.jsonl", row)
    boolq = choose_tasks(SUITE, ["boolq"])
    (local,), _ = find_local_tasks(tmp_path, boolq)
    assert (local.evaluated_split, local.fewshot_split) == ("validation", "validation")
    with gzip.open(tmp_path / "boolq.train.jsonl.gz", "wt") as packed:
        packed.write(json.dumps(row) + "\n")
    (local,), _ = find_local_tasks(tmp_path, boolq)
    assert (local.evaluated_split, local.fewshot_split) == ("validation", "train")
    assert check_local_rows(local) == {"validation": 1, "train": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(PIQA_ROW) + "\n" + '{"goal": 1}\n', r"piqa\.validation\.jsonl:2.*\n.*no field 'sol1'"),
        (json.dumps(PIQA_ROW) + "\n{", r"piqa\.validation\.jsonl:2.*\n.*not valid JSON"),
        ("[1]\n", "not an object"),
        ("", "holds no questions"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "piqa.validation.jsonl").write_text(content, encoding="utf-8")
    (local,), _ = find_local_tasks(tmp_path, GENERAL[:1])
    with pytest.raises(UserError, match=reason):
        check_local_rows(local)


def test_archive_cut_short_is_named(tmp_path: Path) -> None:
    file = tmp_path / "piqa.validation.jsonl.gz"
    with gzip.open(file, "wt") as packed:
        packed.writelines(json.dumps({**PIQA_ROW, "goal": str(number**9)}) + "\n" for number in range(2000))
    file.write_bytes(file.read_bytes()[:-500])
    (local,), _ = find_local_tasks(tmp_path, GENERAL[:1])
    with pytest.raises(UserError, match="cannot be read beyond row"):
        check_local_rows(local)


def test_folder_without_task_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file of any selected task"):
        find_local_tasks(tmp_path, GENERAL)
    with pytest.raises(UserError, match="no such folder"):
        find_local_tasks(tmp_path / "absent", GENERAL)


def test_limit_of_mmlu_is_shared_out_among_subjects() -> None:
    limits = {task.name: plan_call(task, task.name, limit=100).limit for task in GENERAL}
    assert limits == {task.name: 2 if task.name == "mmlu" else 100 for task in GENERAL}
    assert [plan_call(task, task.name, limit=None).limit for task in GENERAL] == [None] * 9


def test_local_tasks_have_names_of_their_own(tmp_path: Path) -> None:
    write_rows(tmp_path / "winogrande_xl.validation.jsonl", {})
    (local,), _ = find_local_tasks(tmp_path, GENERAL)
    assert local_name(local.task.name) == "winogrande_local"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "absent", "data_dir": "."}, "with data_dir, nothing is read from the hub"),
        ({"model": "/absent/model"}, "no such folder"),
        ({"model": "./absent"}, "no such folder"),
        ({"model": "../absent"}, "no such folder"),
        ({"model": "{folder}"}, "no config.json"),
        ({"model": "some/model", "batch_size": "many"}, "not a batch size"),
        ({"model": "some/model", "run": "{folder}"}, "no metrics.jsonl"),
        ({"model": "some/model", "model_args": {"pretrained": "other"}}, "set model instead"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    (tmp_path / "empty").mkdir()
    filled = {k: v.format(folder=tmp_path / "empty") if isinstance(v, str) else v for k, v in settings.items()}
    with pytest.raises(UserError, match=reason):
        open_evaluation(EvaluateConfig(output=str(tmp_path / "out"), **filled))


def test_lineage_walks_manifests_back_to_the_raw_text(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "rain"}\n', encoding="utf-8")
    made = raw
    for name in ("synthesize", "preprocess"):
        stage = Stage(name, tmp_path / name, {}, [made])
        stage.start()
        made = tmp_path / name / "made"
        made.write_text(name, encoding="utf-8")
        stage.finish([made], {"documents": 1})
    last = Stage("evaluate", tmp_path / "evaluate", {}, [made])
    steps = trace_lineage(last.folder, last.manifest)
    assert [step.manifest.stage for step in steps] == ["evaluate", "preprocess", "synthesize"]
    assert [[Path(source.path).name for source in step.sources] for step in steps] == [[], [], ["raw.jsonl"]]


def test_run_is_described_once_when_its_losses_and_its_checkpoint_are_read(tmp_path: Path) -> None:
    outputs = []
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "iter_0000010"):
        stage = Stage("pretrain", folder, {}, [])
        stage.start()
        outputs.append(folder / "written")
        outputs[-1].write_text(folder.name, encoding="utf-8")
        stage.finish([outputs[-1]], {"iteration": 10})
    evaluation = Stage("evaluate", tmp_path / "evaluate", {}, outputs)
    rows = lineage_rows(trace_lineage(evaluation.folder, evaluation.manifest))
    assert [(row.title, Path(row.folder).name) for row in rows] == [
        ("Model scored", "evaluate"),
        ("Model trained", "iter_0000010"),
    ]
