"""Each outside library that others could replace has one owner, and megatron-core is the only part of Megatron used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import megatron_ipt

PACKAGE = Path(megatron_ipt.__file__).parent
OWNED = ("lm_eval", "wandb", "vllm", "gigatoken", "openai", "py3langid", "datatrove.executor", "datatrove.pipeline")


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


IMPORTS = {file.relative_to(PACKAGE).as_posix(): imported(file) for file in PACKAGE.rglob("*.py")}


@pytest.mark.parametrize("library", OWNED)
def test_library_has_at_most_one_owner(library: str) -> None:
    owners = [file for file, names in IMPORTS.items() if any(f"{name}.".startswith(f"{library}.") for name in names)]
    assert len(owners) <= 1, owners


def test_only_megatron_core_is_imported() -> None:
    used = {name for names in IMPORTS.values() for name in names if name.split(".")[0] == "megatron"}
    assert used
    assert all(name.startswith("megatron.core") for name in used), used


def test_trainer_names_no_framework() -> None:
    assert not any(name.split(".")[0] in ("torch", "megatron") for name in IMPORTS["training/trainer.py"])


def test_parallel_state_stays_in_its_room() -> None:
    users = [file for file in IMPORTS if "parallel_state" in (PACKAGE / file).read_text(encoding="utf-8")]
    assert all(file.startswith("parallel/") for file in users), users
