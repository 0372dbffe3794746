"""The biomedicine, finance and context suites on rows of our own, against transformers and plain arithmetic."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.stage import evaluate, open_evaluation

pytestmark = pytest.mark.e2e

OPTIONS = {
    "PubMedQA": ["yes", "no", "maybe"],
    "ChemProt": ["agonist", "inhibitor of the product", "substrate", "activator"],
    "RCT": ["background", "objective", "methods used", "results", "conclusions"],
    "MQP": ["Yes", "No"],
    "USMLE": ["Rest and water", "An antibiotic", "Surgery within the day", "A second reading of the pressure"],
    "Headline": ["Yes", "No"],
    "FiQA_SA": ["positive", "negative", "neutral"],
    "FPB": ["positive", "negative", "neutral"],
}
SUBJECTS = [
    "the trial",
    "a firm in the north",
    "gold",
    "the nurse",
    "this enzyme",
    "a bond",
    "the harbour",
    "its chief",
]


def choice_rows(task: str) -> list[dict[str, Any]]:
    """Prompts with an example filled in, as the published rows have them."""
    options = OPTIONS[task]
    return [
        {
            "input": f"Of the harbour little is known. Answer: {options[0]}\n\nOf {subject}, {number}. Answer:",
            "options": options,
            "gold_index": number % len(options),
            "class_id": number % 9,
        }
        for number, subject in enumerate(SUBJECTS * 3)
    ]


def write(folder: Path, task: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{task}.test.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


class Reference:
    """The published scoring, straight from transformers: one option, one forward pass."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def ids(self, text: str) -> Any:
        """Token ids with BOS, [1, tokens]; the tokenizer of the quick start does not add it."""
        import torch

        own = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([[self.tokenizer.bos_token_id, *own]])

    def losses(self, prompt: str, answer: str) -> list[float]:
        """Of each token that `answer` adds."""
        import torch

        ids, start = self.ids(f"{prompt} {answer}"), self.ids(prompt).shape[1]
        with torch.no_grad():
            logits = self.model(ids).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return list(losses[start - 1 :].tolist())

    def choose(self, row: dict[str, Any]) -> int:
        means = [math.fsum(losses) / len(losses) for losses in (self.losses(row["input"], o) for o in row["options"])]
        return means.index(min(means))

    def complete(self, prompt: str, most: int) -> str:
        """Greedy, up to the first newline."""
        ids = self.ids(prompt)
        made = self.model.generate(ids, max_new_tokens=most, do_sample=False, pad_token_id=0)
        text: str = self.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        return text.partition("\n")[0]


def run(model: Path, suite: str, data: Path, output: Path) -> dict[str, Any]:
    config = EvaluateConfig(
        model=str(model), output=str(output), suite=suite, data_dir=str(data), device="cpu", batch_size="1"
    )
    return evaluate(open_evaluation(config))


def weighted_f1(pairs: list[tuple[int, int]]) -> float:
    right, named = Counter(r for r, _ in pairs), Counter(c for _, c in pairs)
    true = Counter(r for r, c in pairs if r == c)
    return sum(count * 2 * true[option] / (named[option] + count) for option, count in right.items()) / len(pairs)


def share_right(pairs: list[tuple[int, int]]) -> float:
    return sum(right == chosen for right, chosen in pairs) / len(pairs)


def headline_of(result: dict[str, Any], task: str) -> tuple[str, float]:
    score = result["tasks"][task]
    return score["metric"], score["metrics"][score["metric"]]["value"]


def test_biomedicine_is_scored_as_published(model_folder: Path, tmp_path: Path) -> None:
    tasks = {"PubMedQA": "acc", "ChemProt": "micro_f1", "RCT": "micro_f1", "MQP": "acc", "USMLE": "acc"}
    for task in tasks:
        write(tmp_path / "data", task, choice_rows(task))
    results = run(model_folder, "biomedicine", tmp_path / "data", tmp_path / "out")
    reference = Reference(model_folder)
    expected = {}
    for task in tasks:
        pairs = [(row["gold_index"], reference.choose(row)) for row in choice_rows(task)]
        expected[task] = share_right(pairs)
        assert headline_of(results, task) == (tasks[task], pytest.approx(expected[task], abs=1e-12)), task
    assert len(set(expected.values())) > 1
    assert results["average"] == pytest.approx(sum(expected.values()) / 5)


def test_finance_is_scored_as_published(model_folder: Path, tmp_path: Path) -> None:
    data, reference = tmp_path / "data", Reference(model_folder)
    for task in ("Headline", "FiQA_SA", "FPB"):
        write(data, task, choice_rows(task))
    prompts = [f"Text: {subject} gained 5 points. Entities:" for subject in SUBJECTS[:4]]
    answers = [reference.complete(prompt, 100) for prompt in prompts]
    words = [word for answer in answers for word in answer.split()]
    entities = [{"input": prompt, "label": f"{(words or ['Ada'])[0]} (ORG), Kiel (LOC)"} for prompt in prompts]
    numbers = [{"input": prompt, "label": f"{number}.5%"} for number, prompt in enumerate(prompts)]
    write(data, "NER", entities)
    write(data, "ConvFinQA", numbers)
    results = run(model_folder, "finance", data, tmp_path / "out")
    for task in ("FiQA_SA", "FPB"):
        pairs = [(row["gold_index"], reference.choose(row)) for row in choice_rows(task)]
        assert headline_of(results, task) == ("weighted_f1", pytest.approx(weighted_f1(pairs), abs=1e-12))
    by_class: dict[int, list[tuple[int, int]]] = {}
    for row in choice_rows("Headline"):
        by_class.setdefault(row["class_id"], []).append((row["gold_index"], reference.choose(row)))
    mean = sum(map(weighted_f1, by_class.values())) / 9
    assert headline_of(results, "Headline") == ("headline_f1", pytest.approx(mean, abs=1e-12))
    for task in ("NER", "ConvFinQA"):
        file = tmp_path / "out" / "samples" / f"{task}.jsonl"
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert [sample["arguments"]["gen_args_0"]["arg_0"] for sample in samples] == prompts
        assert [sample["resps"][0][0] for sample in samples] == answers
        metric, value = headline_of(results, task)
        assert value == pytest.approx(sum(sample[metric] for sample in samples) / len(samples))
    assert results["average"] == pytest.approx(sum(headline_of(results, task)[1] for task in results["tasks"]) / 5)


def test_context_qa_has_the_loss_and_the_f1_of_answers(model_folder: Path, tmp_path: Path) -> None:
    pairs = [{"Q": "Where does the river rise?", "A": "In the hills."}, {"Q": "How long is it?", "A": "Forty miles"}]
    contexts = ["The river rises in the hills; it is forty miles long.", "A river of forty miles, out of the hills."]
    rows = [{"id": str(n), "set": "own", "context": context, "pairs": pairs} for n, context in enumerate(contexts)]
    write(tmp_path / "data", "context_qa", rows)
    results = run(model_folder, "context_qa", tmp_path / "data", tmp_path / "out")
    reference, losses = Reference(model_folder), []
    for row in rows:
        for pair in row["pairs"]:
            losses += reference.losses(f"{row['context']}\n\nQuestion: {pair['Q']}\nAnswer:", pair["A"])
    assert headline_of(results, "context_qa_loss") == ("token_loss", pytest.approx(sum(losses) / len(losses), abs=1e-5))
    assert results["tasks"]["context_qa_f1"]["questions"] == 4
    assert set(results["tasks"]["context_qa_f1"]["metrics"]) == {"f1", "exact_match"}
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "context_qa.test.jsonl").write_text('{"context": "a"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"context_qa\.test\.jsonl:1"):
        run(model_folder, "context_qa", tmp_path / "bad", tmp_path / "out2")


def test_rows_that_are_missing_are_named(model_folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "data", "PubMedQA", [{"input": "a", "options": ["b"]}])
    with pytest.raises(UserError, match=r"PubMedQA\.test\.jsonl:1[\s\S]*gold_index"):
        run(model_folder, "biomedicine", tmp_path / "data", tmp_path / "out")
