"""Scoring with a real language model, shown examples and not, through the command line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.full]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def heldout(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six shortest passages of BoolQ's validation set."""
    with gzip.open(quickstart_inputs / "eval" / "boolq.validation.jsonl.gz", "rt", encoding="utf-8") as handle:
        rows = sorted(map(json.loads, handle), key=lambda row: len(row["passage"]))[:6]
    file = tmp_path_factory.mktemp("heldout") / "heldout_sets.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for number, row in enumerate(rows):
            pairs = [{"Q": f"{row['question']}?", "A": "yes" if row["label"] else "no"}]
            out.write(json.dumps({"id": str(number), "set": "boolq", "context": row["passage"], "pairs": pairs}) + "\n")
    return file


def test_examples_teach_a_real_model_the_form(quickstart_inputs: Path, heldout: Path, tmp_path: Path) -> None:
    engine = {"model": str(quickstart_inputs / "smollm2"), "max_new_tokens": 48}
    shown = {"engine": engine, "examples": str(quickstart_inputs / "examples.jsonl")}
    settings = {"input": [str(heldout)], "output": str(tmp_path / "scores"), "max_answer_tokens": 12}
    words = [f"{key}={json.dumps(value)}" for key, value in {**settings, "models.shown": shown}.items()]
    command = [sys.executable, str(ROOT / "tools" / "score_synthesizer.py"), *words]
    command.append(f"models.bare={json.dumps({'engine': engine})}")
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    results = json.loads((tmp_path / "scores" / "results.json").read_text(encoding="utf-8"))
    shown_figures, bare_figures = (results["models"][name]["overall"] for name in ("shown", "bare"))
    assert shown_figures["questions"] == bare_figures["questions"] == shown_figures["contexts"] == 6
    assert shown_figures["pairs"] > bare_figures["pairs"] == 0
    assert shown_figures["f1"]["value"] > bare_figures["f1"]["value"]
    assert "shown" in told and "bare" in told
    page = (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4
