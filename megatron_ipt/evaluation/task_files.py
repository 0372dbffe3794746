"""Task definitions for local files: YAMLs that include those of lm-evaluation-harness and change only the data source.

Prompts, answer choices, metrics and few-shot samplers are those of the included file. The tasks are called TASK_local,
so that they do not hide the harness's own: `lm_eval --include_path FOLDER --tasks piqa_local ...`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from megatron_ipt.evaluation.local_data import LocalTask, read_local_rows


def local_name(name: str) -> str:
    """Return the name of a local task: piqa_local; for MMLU's groups and subjects mmlu_local, mmlu_local_anatomy."""
    return name.replace("mmlu", "mmlu_local", 1) if name.startswith("mmlu") else f"{name}_local"


def write_task_files(local: LocalTask, folder: Path, definitions: Path) -> None:
    """Write the definition of `local` into `folder`; `definitions` is the folder lm_eval/tasks of the harness."""
    if local.form.is_by_subject:
        _write_subjects(local, folder / local.task.name, definitions)
        return
    definition = definitions / local.form.definition
    tag = "ai2_arc_local" if local.task.name.startswith("arc_") else None
    _write_yaml(
        folder / f"{local_name(local.task.name)}.yaml",
        {
            "include": str(definition),
            "task": local_name(local.task.name),
            "tag": tag,
            **_rows_from(local, {split: file.resolve() for split, file in local.files.items()}),
        },
    )


def _rows_from(local: LocalTask, files: dict[str, Path]) -> dict[str, Any]:
    """Return the fields that select the data; missing splits are set to None, or the harness would load them."""
    splits = {
        "training_split": "train" if "train" in files else None,
        "validation_split": "validation" if "validation" in files else None,
        "test_split": "test" if local.evaluated_split == "test" else None,
    }
    if local.fewshot_split in ("dev", "test"):
        splits["fewshot_split"] = local.fewshot_split
    elif local.form.fewshot_splits[0] == "dev":
        splits["fewshot_split"] = None
    data_files = {split: str(file) for split, file in files.items()}
    return {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": data_files}, **splits}


def _write_subjects(local: LocalTask, folder: Path, definitions: Path) -> None:
    """Write a task for each subject, and the groups over them, from one file per split with a `subject` field."""
    files = _split_by_subject(local, folder / "rows")
    source = (definitions / local.form.definition).parent
    tags = set()
    for definition in sorted(source.glob(f"{local.task.name}_*.yaml")):
        values = yaml.safe_load(definition.read_text(encoding="utf-8"))
        subject = values["dataset_name"]
        if local.evaluated_split not in files[subject]:
            continue
        tags.add(local_name(values["tag"]))
        _write_yaml(
            folder / f"{local_name(values['task'])}.yaml",
            {
                "include": str(definition),
                "task": local_name(values["task"]),
                "tag": local_name(values["tag"]),
                **_rows_from(local, files[subject]),
            },
        )
    for definition in sorted(source.glob(f"_{local.task.name}_*.yaml")):
        _write_group(definition, folder, tags)
    _write_group(definitions / local.form.definition, folder, {path.stem for path in folder.glob("mmlu_local_*.yaml")})


def _write_group(definition: Path, folder: Path, members: set[str]) -> None:
    """Write a copy of a group with local names, and with those of its tasks that are in `members`."""
    values = yaml.safe_load(definition.read_text(encoding="utf-8"))
    named = [local_name(member) for member in values["task"]]
    if available := [member for member in named if member in members]:
        name = local_name(values["group"])
        _write_yaml(folder / f"{name}.yaml", {**values, "group": name, "task": available})


def _split_by_subject(local: LocalTask, folder: Path) -> dict[str, dict[str, Path]]:
    """Write one file per subject and split, and return the files by subject and split."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for split, source in local.files.items():
        rows: dict[str, list[str]] = defaultdict(list)
        for row in read_local_rows(local.task.name, local.form.fields, source):
            rows[row["subject"]].append(json.dumps(row, ensure_ascii=False) + "\n")
        for subject, lines in rows.items():
            file = (folder / f"{subject}.{split}.jsonl").resolve()
            file.write_text("".join(lines), encoding="utf-8")
            files[subject][split] = file
    return files


def _write_yaml(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
