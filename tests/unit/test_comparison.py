"""Comparing runs: the bootstrap against scipy's own tests, and tables and pages of made-up scores."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from megatron_ipt.cli import compare as command
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.evaluation.domain_tasks import weighted_f1
from megatron_ipt.evaluation.scores import Metric, Score
from megatron_ipt.evaluation.significance import average, compare


def right_answers(seed: int, questions: int, gain: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two models that mostly agree; the second has `gain` more right answers."""
    draw = np.random.default_rng(seed)
    hardness = draw.uniform(0, 1, questions)
    first = (hardness + draw.normal(0, 0.2, questions) < 0.5).astype(float)
    second = (hardness + draw.normal(0, 0.2, questions) < 0.5 + gain).astype(float)
    return first, second


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.05, 0.1])
def test_bootstrap_agrees_with_paired_tests_of_scipy(gain: float) -> None:
    first, second = right_answers(5, 600, gain)
    found = compare("acc", first.tolist(), second.tolist(), seed=1)
    t_test = stats.ttest_rel(second, first)
    interval = t_test.confidence_interval(0.95)
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert found.p_value == pytest.approx(t_test.pvalue, abs=0.02)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.004)
    only_second = int(np.sum(second > first))
    sign_test = stats.binomtest(only_second, int(np.sum(second != first))).pvalue
    assert found.p_value == pytest.approx(sign_test, abs=0.06)


def test_chance_is_taken_for_a_difference_as_often_as_it_should() -> None:
    pairs = [right_answers(seed, 60, 0.0) for seed in range(80)]
    p_values = [compare("acc", first.tolist(), second.tolist(), seed=1).p_value for first, second in pairs]
    taken = sum(p_value < 0.05 for p_value in p_values)
    assert stats.binomtest(taken, len(pairs), 0.05).pvalue > 0.01, taken


@pytest.mark.slow
def test_metrics_that_are_no_mean_are_resampled_whole() -> None:
    draw = np.random.default_rng(2)
    right = draw.integers(0, 3, 200)
    first = np.where(draw.uniform(size=200) < 0.5, right, draw.integers(0, 3, 200))
    second = np.where(draw.uniform(size=200) < 0.6, right, draw.integers(0, 3, 200))
    found = compare("weighted_f1", np.c_[right, first].tolist(), np.c_[right, second].tolist(), seed=1)

    def difference(r: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
        return weighted_f1(np.c_[r, b].tolist()) - weighted_f1(np.c_[r, a].tolist())

    reference = stats.bootstrap(
        (right, first, second), difference, paired=True, vectorized=False, n_resamples=200, method="percentile", rng=3
    )
    assert found.value == pytest.approx(difference(right, first, second))
    interval = reference.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.03)


def test_average_weighs_tasks_equally() -> None:
    many, few = right_answers(1, 900, 0.1), right_answers(2, 50, 0.0)
    parts = [compare("acc", first.tolist(), second.tolist(), seed) for seed, (first, second) in enumerate([many, few])]
    mean = average(parts)
    errors = [np.std(second - first, ddof=1) / np.sqrt(len(first)) for first, second in (many, few)]
    half_width = 1.96 * np.hypot(*errors) / 2
    assert mean.value == pytest.approx((parts[0].value + parts[1].value) / 2)
    assert (mean.high - mean.low) / 2 == pytest.approx(half_width, rel=0.06)
    assert mean.questions == 950


def write_evaluation(folder: Path, answers: dict[str, list[float]], tokens: int | None, question: str = "q") -> None:
    """What `evaluate` leaves: results, samples and manifest."""
    stage = Stage("evaluate", folder, {}, [])
    stage.start()
    scores = {}
    (folder / "samples").mkdir()
    for task, values in answers.items():
        mean, stderr = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
        counts = (0, len(values), len(values), "test", None, 0.25)
        score = asdict(Score(task, "acc", {"acc": Metric(mean, stderr)}, *counts, samples=[task]))
        scores[score.pop("task")] = score
        rows = [
            {"doc_id": n, "doc_hash": f"{question}{n}", "prompt_hash": "p", "filter": "none", "acc": value}
            for n, value in enumerate(values)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "samples" / f"{task}.jsonl").write_text(text, encoding="utf-8")
    progress = None if tokens is None else {"iteration": 1, "consumed_train_tokens": tokens}
    (folder / "results.json").write_text(json.dumps({"progress": progress, "tasks": scores}), encoding="utf-8")
    stage.finish([folder / "results.json"], {})


def test_runs_are_compared_by_task_against_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, better = right_answers(1, 300, 0.15)
    other = right_answers(4, 200, 0.0)
    for step in (1, 2, 3):
        answers = {"piqa": plain[: 100 * step].tolist(), "boolq": other[0].tolist()}
        write_evaluation(tmp_path / "vanilla" / f"iter_{step:07d}", answers, step * 10**9)
    write_evaluation(tmp_path / "instruct", {"piqa": better.tolist(), "boolq": other[1].tolist()}, 3 * 10**9)
    runs = [f"Vanilla={tmp_path}/vanilla", f"Instruct={tmp_path}/instruct"]
    assert command.main([*runs, "--output", str(tmp_path / "out")]) == 0
    assert "Instruct" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").read_text(encoding="utf-8").splitlines()))
    found = {(row["task"], row["run"]): row for row in rows}
    assert [row["task"] for row in rows] == ["piqa"] * 2 + ["boolq"] * 2 + ["average"] * 2
    piqa = found["piqa", "Instruct"]
    assert float(piqa["score"]) == pytest.approx(better.mean())
    assert float(piqa["difference"]) == pytest.approx(better.mean() - plain.mean())
    assert float(piqa["p_value"]) < 0.01 < float(found["boolq", "Instruct"]["p_value"])
    assert float(found["average", "Vanilla"]["score"]) == pytest.approx((plain.mean() + other[0].mean()) / 2)
    curves = list(csv.DictReader((tmp_path / "out" / "curves.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["tokens"] for row in curves if (row["task"], row["run"]) == ("piqa", "Vanilla")] == [
        "1000000000",
        "2000000000",
        "3000000000",
    ]
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "Vanilla, Instruct" in page
    plots = {file.stem: ElementTree.parse(file) for file in (tmp_path / "out" / "plots").glob("*.svg")}
    assert plots.keys() == {"piqa", "boolq", "average"}
    for plot in plots.values():
        words = set("".join(plot.getroot().itertext()).splitlines())
        assert {"Vanilla", "Instruct", "tokens, billions"} <= {word.strip() for word in words}
    assert "var(" not in (tmp_path / "out" / "plots" / "piqa.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("answers", "question", "reason"),
    [
        ({"piqa": [1.0, 0.0, 1.0]}, "other", "different questions"),
        ({"piqa": [1.0, 0.0]}, "q", "different questions"),
        ({"boolq": [1.0, 0.0]}, "q", "no task in common"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    answers: dict[str, list[float]], question: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluation(tmp_path / "a", {"piqa": [1.0, 0.0, 1.0]}, None)
    write_evaluation(tmp_path / "b", answers, None, question)
    assert command.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert command.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "no finished evaluation" in capsys.readouterr().err
