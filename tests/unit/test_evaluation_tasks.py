"""Local tasks ask what lm-evaluation-harness's own tasks ask: same prompts, examples, choices, answers, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.evaluation.harness import definitions_folder
from megatron_ipt.evaluation.local_data import LocalTask, find_local_tasks, read_local_rows
from megatron_ipt.evaluation.suite import SuiteTask, load_suite
from megatron_ipt.evaluation.task_files import local_name, write_task_files

GENERAL = load_suite("general").tasks
SEED = 1234
COMPARED = 25
LARGE = {"hellaswag", "social_iqa"}  # tasks with so many questions that comparing them takes most of the time
KEPT = (
    "output_type",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "metric_list",
    "description",
    "target_delimiter",
    "fewshot_delimiter",
)


def is_by_subject(task: SuiteTask) -> bool:
    return task.local is not None and task.local.is_by_subject


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def local_task(task_folder: Path, name: str) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(task_folder), include_defaults=False).load(name)["tasks"][name]


def own_task(definition: Path, rows: dict[str, list[dict[str, Any]]]) -> Any:
    """The harness's task as it stands, on `rows` instead of the hub's."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(definition)
    for key in ("tag", "group"):
        config.pop(key, None)
    splits = {split: Dataset.from_list(values) for split, values in rows.items()}
    asked = [config.get(f"{kind}_split") for kind in ("training", "validation", "test", "fewshot")]
    some = next(iter(splits.values()))
    splits |= {split: some for split in asked if split is not None and split not in splits}
    return ConfigurableTask(config={**config, "custom_dataset": lambda **_: splits, "metadata": {}})


def questions_of(task: Any, split: str, num_fewshot: int) -> list[tuple[Any, ...]]:
    task.set_fewshot_seed(SEED)
    documents = list(task.test_docs() if split == "test" else task.validation_docs())[:COMPARED]
    return [
        (
            task.fewshot_context(document, num_fewshot),
            task.doc_to_text(document),
            task.doc_to_choice(document),
            task.doc_to_target(document),
        )
        for document in documents
    ]


def compare(local: LocalTask, ours: Any, theirs: Any) -> None:
    assert questions_of(ours, local.evaluated_split, local.task.num_fewshot or 0) == questions_of(
        theirs, local.evaluated_split, local.task.num_fewshot or 0
    )
    for key in KEPT:
        assert str(ours.config[key]) == str(theirs.config[key]) or callable(ours.config[key]), key
    assert ours.fewshot_cfg.sampler == theirs.fewshot_cfg.sampler


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(task.name, marks=[pytest.mark.full] if task.name in LARGE else [])
        for task in GENERAL
        if not is_by_subject(task)
    ],
)
def test_local_task_asks_the_harnesss_questions(name: str, quickstart_inputs: Path, tmp_path: Path) -> None:
    (local,), _ = find_local_tasks(quickstart_inputs / "eval", [task for task in GENERAL if task.name == name])
    write_task_files(local, tmp_path / "tasks", definitions_folder())
    rows = {
        split: list(read_local_rows(local.task.name, local.form.fields, file)) for split, file in local.files.items()
    }
    ours = local_task(tmp_path / "tasks", local_name(name))
    compare(local, ours, own_task(definitions_folder() / local.form.definition, rows))
    assert len(ours.eval_docs) == len(rows[local.evaluated_split])


def test_local_mmlu_has_all_subjects_and_groups(quickstart_inputs: Path, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    (local,), _ = find_local_tasks(quickstart_inputs / "eval", [task for task in GENERAL if is_by_subject(task)])
    write_task_files(local, tmp_path / "tasks", definitions_folder())
    index = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False).task_index
    tags = [name for name in index if name.endswith("_tasks")]
    assert sum(len(index[tag].tags) for tag in tags) == 57
    assert sorted(index["mmlu_local"].cfg["task"]) == [
        "mmlu_local_humanities",
        "mmlu_local_other",
        "mmlu_local_social_sciences",
        "mmlu_local_stem",
    ]
    for subject in ("anatomy", "world_religions"):
        rows = {
            split: [
                row for row in read_local_rows(local.task.name, local.form.fields, file) if row["subject"] == subject
            ]
            for split, file in local.files.items()
        }
        definition = definitions_folder() / "mmlu" / "default" / f"mmlu_{subject}.yaml"
        compare(local, local_task(tmp_path / "tasks", f"mmlu_local_{subject}"), own_task(definition, rows))
