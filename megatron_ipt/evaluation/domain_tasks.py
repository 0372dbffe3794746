"""The paper's domain tasks as its published evaluation scores them: rows, the loss of each option, metrics.

A row holds `input`, the whole prompt with examples filled in, and either `options` with `gold_index` or `label`. The
rows lie on the hub (AdaptLLM/medicine-tasks, AdaptLLM/finance-tasks) or in `data_dir`, as CONFIGURATION.test.jsonl.
The definitions in `tasks/` refer to the functions here; lm-evaluation-harness calls them, on its own command line too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.answer_numbers import has_same_number
from megatron_ipt.evaluation.entities import entity_f1
from megatron_ipt.evaluation.local_data import find_own_file, read_local_rows

CONTEXT_TOKENS = 2048
NEW_TOKENS = 100


def load_choices(dataset: str, configuration: str, pretrained: str, **settings: Any) -> dict[str, Any]:
    """The rows of a task with options, each with the number of tokens that every option adds to the prompt.

    The prompt's tokens are counted by tokenizing it alone, as the published evaluation does.
    """
    tokenizer = load_tokenizer(settings.get("tokenizer") or pretrained)

    def count(row: dict[str, Any]) -> dict[str, Any]:
        prompt = row["input"]
        alone = len(tokenizer(prompt)["input_ids"])
        totals = [len(tokenizer(f"{prompt} {option}")["input_ids"]) for option in row["options"]]
        return {**row, "option_tokens": [total - alone for total in totals]}

    fields = ("input", "options", "gold_index")
    return as_dataset([count(row) for row in _read(dataset, configuration, fields, settings.get("data_dir"))])


def load_completions(dataset: str, configuration: str, pretrained: str, **settings: Any) -> dict[str, Any]:
    """The rows of a task whose answer is generated, with prompts cut from the left to the published length.

    They are cut to 2,048 tokens less 100 for the answer, BOS included where the model is given one.
    """
    tokenizer = load_tokenizer(settings.get("tokenizer") or pretrained)
    most = CONTEXT_TOKENS - NEW_TOKENS - (1 if settings.get("add_bos_token") in (True, "True") else 0)

    def shorten(row: dict[str, Any]) -> dict[str, Any]:
        label = row["label"] if isinstance(row["label"], str) else row["label"][0]
        return {**row, "label": label, "prompt": cut_left(row["input"], tokenizer, most)}

    rows = _read(dataset, configuration, ("input", "label"), settings.get("data_dir"))
    return as_dataset([shorten(row) for row in rows])


def cut_left(text: str, tokenizer: Any, most: int) -> str:
    """The end of `text` that has at most `most` tokens."""
    starts = [
        start for start, _ in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    ]
    extra = len(starts) - most
    if extra <= 0:
        return text
    for start in starts[extra:]:  # the first piece may fall into more tokens where it now begins the text
        if len(tokenizer(text[start:], add_special_tokens=False)["input_ids"]) <= most:
            return text[start:]
    return ""


def choose(doc: Mapping[str, Any], results: Sequence[Sequence[Any]]) -> int:
    """The option with the lowest mean loss a token; `results` holds (log-likelihood, is_greedy) of each."""
    losses = [-result[0] / tokens for result, tokens in zip(results, doc["option_tokens"], strict=True)]
    return losses.index(min(losses))


def score_accuracy(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """Whether the chosen option is the right one."""
    return {"acc": float(choose(doc, results) == doc["gold_index"])}


def score_micro_f1(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """The right option and the chosen one, for `micro_f1`."""
    return {"micro_f1": [doc["gold_index"], choose(doc, results)]}


def score_weighted_f1(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """The right option and the chosen one, for `weighted_f1`."""
    return {"weighted_f1": [doc["gold_index"], choose(doc, results)]}


def score_headline(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """The class of the question, the right option and the chosen one, for `headline_f1`."""
    return {"headline_f1": [doc["class_id"], doc["gold_index"], choose(doc, results)]}


def score_entities(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The F1 of the entities that the answer names."""
    return {"entity_f1": entity_f1(f" {doc['label']}", results[0])}


def score_number(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Whether a number of the answer is the right one."""
    return {"number_match": float(has_same_number(doc["label"], results[0]))}


def micro_f1(items: Sequence[Sequence[int]]) -> float:
    """F1 over all questions together, of [right, chosen]."""
    return _f1(items, "micro")


def weighted_f1(items: Sequence[Sequence[int]]) -> float:
    """The mean of the options' F1, of [right, chosen], weighted by how often each is right."""
    return _f1(items, "weighted")


def headline_f1(items: Sequence[Sequence[int]]) -> float:
    """The mean over the classes of questions of `weighted_f1` within each, of [class, right, chosen]."""
    classes = sorted({item[0] for item in items})
    return math.fsum(weighted_f1([item[1:] for item in items if item[0] == one]) for one in classes) / len(classes)


AGGREGATIONS = {"micro_f1": micro_f1, "weighted_f1": weighted_f1, "headline_f1": headline_f1}
"""The metrics whose value is not the mean of values of single questions."""


def _f1(items: Sequence[Sequence[int]], average: str) -> float:
    from sklearn.metrics import f1_score

    right, chosen = zip(*items, strict=True)
    return float(f1_score(right, chosen, average=average, zero_division=0.0))


@lru_cache(maxsize=1)
def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model folder, the same object for the tasks of one evaluation."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def as_dataset(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows as the split `test`, in the form that lm-evaluation-harness expects of a `custom_dataset`."""
    from datasets import Dataset

    return {"test": Dataset.from_list(list(rows))}


def _read(dataset: str, configuration: str, fields: Sequence[str], data_dir: str | None) -> Iterator[dict[str, Any]]:
    if data_dir is None:
        from datasets import load_dataset

        yield from load_dataset(dataset, configuration, split="test")
        return
    file = find_own_file(Path(data_dir), configuration)
    if file is None:
        raise UserError("data_dir", data_dir, f"no {configuration}.test.jsonl[.gz] in it", "put the task's rows there")
    yield from read_local_rows(configuration, fields, file)
