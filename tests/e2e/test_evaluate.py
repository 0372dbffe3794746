"""The evaluation stage from its command line, offline, and the harness's own command line on the files it writes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = ("piqa.validation", "arc_easy.test", "arc_easy.train", "mmlu.test", "mmlu.dev")
LIMIT = 2

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    rows = [
        {"iteration": 10, "lm_loss": 9.5, "consumed_train_tokens": 100},
        {"iteration": 10, "validation_loss": 9.25},
        {"iteration": 20, "lm_loss": 7.5, "consumed_train_tokens": 200},
        {"iteration": 20, "validation_loss": 7.125},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def settings(
    quickstart_inputs: Path, model_folder: Path, run_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    data = tmp_path_factory.mktemp("data")
    for name in FILES:
        shutil.copy(quickstart_inputs / "eval" / f"{name}.jsonl.gz", data)
    return {
        "model": str(model_folder),
        "data_dir": str(data),
        "output": str(tmp_path_factory.mktemp("out") / "eval"),
        "tasks": "[piqa,hellaswag,arc_easy]",
        "limit": str(LIMIT),
        "run": str(run_folder),
    }


def evaluate(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, str(CHECKOUT / "tools" / "evaluate_model.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def first_run(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = evaluate(settings)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def results(first_run: subprocess.CompletedProcess[str], settings: dict[str, str]) -> dict[str, Any]:
    return read_results(settings)


def read_results(settings: dict[str, str]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(settings["output"], "results.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def settings_with_subjects(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same with MMLU, whose 57 subjects take a minute, after an evaluation with them."""
    with_subjects = {
        **settings,
        "output": str(tmp_path_factory.mktemp("subjects") / "eval"),
        "tasks": "[piqa,arc_easy,mmlu]",
    }
    done = evaluate(with_subjects)
    assert done.returncode == 0, done.stderr
    return with_subjects


def test_scores_name_what_they_rest_on(results: dict[str, Any], first_run: subprocess.CompletedProcess[str]) -> None:
    assert list(results["tasks"]) == ["piqa", "arc_easy"]
    arc = results["tasks"]["arc_easy"]
    expected = {"num_fewshot": 5, "questions": LIMIT, "evaluated_split": "test", "fewshot_split": "train"}
    assert expected.items() <= arc.items()
    assert arc["questions_available"] == 2376
    assert set(arc["metrics"]) == {"acc", "acc_norm"}
    assert [task["name"] for task in results["left_out"]] == ["hellaswag"]
    assert "left out: hellaswag: no hellaswag.validation.jsonl[.gz]" in first_run.stdout


def test_report_is_one_page_with_curve_scores_and_lineage(results: dict[str, Any], settings: dict[str, str]) -> None:
    page = Path(settings["output"], "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    outside = [address for address in re.findall(r"(?:src|href)=\"([^\"]+)\"", page) if not address.startswith("#")]
    assert outside == []
    for words in (
        "hellaswag",
        "no hellaswag.validation.jsonl",
        "9.25 → 7.12",
        "Model scored",
    ):
        assert words in page


@pytest.mark.full
def test_group_shares_the_limit_among_its_subjects(settings_with_subjects: dict[str, str]) -> None:
    mmlu = read_results(settings_with_subjects)["tasks"]["mmlu"]
    assert (mmlu["questions"], mmlu["questions_available"], mmlu["fewshot_split"]) == (57, 14042, "dev")
    assert 0 < mmlu["metrics"]["acc"]["stderr"] < 0.1
    assert len(mmlu["parts"]) == 57 + 4
    page = Path(settings_with_subjects["output"], "report.html").read_text(encoding="utf-8")
    assert "divided among its subjects" in page


def test_second_run_skips_and_shows_the_scores(results: dict[str, Any], settings: dict[str, str]) -> None:
    again = evaluate(settings)
    assert again.returncode == 0
    assert "skipped" in again.stdout
    assert "arc_easy" in again.stdout


def test_other_settings_in_the_same_folder_are_refused(results: dict[str, Any], settings: dict[str, str]) -> None:
    done = evaluate({**settings, "limit": "3"})
    assert done.returncode == 2
    assert f"limit: {LIMIT} then, 3 now" in done.stderr
    assert "Traceback" not in done.stderr


def test_model_without_bos_is_refused(settings: dict[str, str], model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = shutil.copytree(model_folder, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}), encoding="utf-8"
    )
    done = evaluate({**settings, "model": str(folder), "output": str(tmp_path / "out")})
    assert done.returncode == 2, done.stderr
    assert "does not put a BOS token" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_harnesss_own_command_line_gives_the_same_scores(
    results: dict[str, Any], settings: dict[str, str], tmp_path: Path
) -> None:
    words = shlex.split(results["setting"]["command_lines"][1])
    assert words[0] == "lm_eval"
    assert words[words.index("--tasks") + 1] == "arc_easy_local"
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", *words, "--output_path", str(tmp_path / "scores")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "scores").glob("**/results_*.json")
    theirs = json.loads(file.read_text(encoding="utf-8"))["results"]
    for name, values in theirs.items():
        for metric, ours in results["tasks"][name.removesuffix("_local")]["metrics"].items():
            assert values[f"{metric},none"] == ours["value"]
            assert values[f"{metric}_stderr,none"] == ours["stderr"]


def answered(database: Path) -> int:
    """How many answers an evaluation has kept so far."""
    # not read-only: the journal of a process that was killed within a transaction is rolled back first
    with closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True)) as connection:
        return int(connection.execute("select count(*) from unnamed").fetchone()[0])


@pytest.mark.full
def test_killed_evaluation_goes_on_and_ends_with_the_same_scores(
    settings_with_subjects: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "eval"
    interrupted = {**settings_with_subjects, "output": str(output)}
    words = [f"{key}={value}" for key, value in interrupted.items()]
    command = [sys.executable, str(CHECKOUT / "tools" / "evaluate_model.py"), *words]
    work = output / "work"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (work / "arc_easy_local.json").is_file():
            assert process.poll() is None
            time.sleep(0.02)
        done = answered(work / "responses.db")
        while answered(work / "responses.db") < done + 40:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    kept = {file: file.stat().st_mtime_ns for file in (output / "samples").glob("*.jsonl")}
    assert [file.name for file in kept if "mmlu" in file.name] == []
    before = answered(work / "responses.db")
    again = evaluate(interrupted)
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    resumed, undisturbed = read_results(interrupted), read_results(settings_with_subjects)
    assert resumed["tasks"] == undisturbed["tasks"]
    assert resumed["average"] == undisturbed["average"]
    assert before > 40
    assert not work.exists()


def test_samples_hold_every_question_with_its_answers(results: dict[str, Any], settings: dict[str, str]) -> None:
    for score in results["tasks"].values():
        files = [Path(settings["output"], "samples", f"{name}.jsonl") for name in score["samples"]]
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == score["questions"]
        assert sum(row["acc"] for row in rows) / len(rows) == pytest.approx(score["metrics"]["acc"]["value"])
        assert all(row["resps"] and row["arguments"]["gen_args_0"]["arg_0"] for row in rows)
