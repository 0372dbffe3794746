"""metrics.jsonl is JSON whatever is measured, and is read whatever stands in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.observability.metrics import MetricsLog, read_metrics


class Shown:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.rows.append(metrics)

    def close(self) -> None:
        pass


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_what_has_no_value_is_null_in_the_file_and_missing_elsewhere(tmp_path: Path) -> None:
    file, shown = tmp_path / "metrics.jsonl", Shown()
    log = MetricsLog(file, 0, [shown])
    log.log(1, {"lm_loss": float("nan"), "best": float("-inf"), "grad_norm": None, "skipped_steps": 0, "mfu": 0.5})
    log.close()
    (line,) = file.read_text(encoding="utf-8").splitlines()
    row = {"iteration": 1, "lm_loss": None, "best": None, "grad_norm": None, "skipped_steps": 0, "mfu": 0.5}
    assert json.loads(line, parse_constant=refuse) == row
    assert shown.rows == [{"skipped_steps": 0, "mfu": 0.5}]
    assert read_metrics(file) == [{"iteration": 1, "skipped_steps": 0, "mfu": 0.5}]


def test_resumed_run_mends_the_rows_of_earlier_versions(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"iteration": 1, "lm_loss": NaN}\n{"iteration": 2, "lm_loss": 3.0}\n{"iteration": 3}\n')
    MetricsLog(file, 2).close()
    rows = [json.loads(line, parse_constant=refuse) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"iteration": 1, "lm_loss": None}, {"iteration": 2, "lm_loss": 3.0}]


@pytest.mark.parametrize(
    "line", ["[1, 2]", "7", "null", '"iteration"', "{}", '{"iteration": "5"}', '{"iteration": nul']
)
def test_lines_that_are_no_rows_are_left_out(line: str, tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"iteration": 1, "lm_loss": 3.0}}\n{line}\n')
    assert read_metrics(file) == [{"iteration": 1, "lm_loss": 3.0}]
    MetricsLog(file, 5).close()
    assert file.read_text() == '{"iteration": 1, "lm_loss": 3.0}\n'
