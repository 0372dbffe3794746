"""The domain tasks of the paper (arXiv 2406.14491), scored as in its published evaluation.

A row holds `input`, the complete prompt with few-shot examples, and either `options` with `gold_index`, or `label`. The
rows are on the hub (AdaptLLM/medicine-tasks, AdaptLLM/finance-tasks) or in `data_dir`, as CONFIGURATION.test.jsonl. The
definitions in `tasks/` refer to the functions here; lm-evaluation-harness calls them, also from its own command line.
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

CONTEXT_TOKENS = 2048  # as in the published evaluation
NEW_TOKENS = 100


def load_choices(dataset: str, configuration: str, pretrained: str, **settings: Any) -> dict[str, Any]:
    """Load the rows of a task with options, with the number of tokens that each option adds to the prompt.

    That number is the difference to the tokens of the prompt alone, as in the published evaluation.

    Args:
        dataset: the name of the dataset on the hub.
        configuration: the name of the task in it.
        pretrained: the model folder.
        settings: further arguments that lm-evaluation-harness passes; `tokenizer` and `data_dir` are used.

    Raises:
        UserError: `data_dir` has no file of the task, or, at FILE:LINE, a row lacks a field.
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
    """Load the rows of a task whose answer is generated, with prompts truncated on the left.

    As in the published evaluation, a prompt keeps 2,048 tokens, less 100 for the answer, BOS included if the model gets
    one. Arguments and errors are those of `load_choices`.
    """
    tokenizer = load_tokenizer(settings.get("tokenizer") or pretrained)
    # the harness passes a bool, its command line a string
    max_tokens = CONTEXT_TOKENS - NEW_TOKENS - (1 if settings.get("add_bos_token") in (True, "True") else 0)

    def shorten(row: dict[str, Any]) -> dict[str, Any]:
        label = row["label"] if isinstance(row["label"], str) else row["label"][0]
        return {**row, "label": label, "prompt": cut_left(row["input"], tokenizer, max_tokens)}

    rows = _read(dataset, configuration, ("input", "label"), settings.get("data_dir"))
    return as_dataset([shorten(row) for row in rows])


def cut_left(text: str, tokenizer: Any, max_tokens: int) -> str:
    """Return the longest end of `text` that has at most `max_tokens` tokens."""
    starts = [
        start for start, _ in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    ]
    extra = len(starts) - max_tokens
    if extra <= 0:
        return text
    for start in starts[extra:]:  # at the beginning of a text, the first word may be split into more tokens
        if len(tokenizer(text[start:], add_special_tokens=False)["input_ids"]) <= max_tokens:
            return text[start:]
    return ""


def choose(doc: Mapping[str, Any], results: Sequence[Sequence[Any]]) -> int:
    """Return the option with the lowest loss per token; `results` holds (log-likelihood, is_greedy) of each option."""
    losses = [-result[0] / tokens for result, tokens in zip(results, doc["option_tokens"], strict=True)]
    return losses.index(min(losses))


def score_accuracy(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """Return 1 if the chosen option is correct, else 0."""
    return {"acc": float(choose(doc, results) == doc["gold_index"])}


def score_micro_f1(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """Return the correct and the chosen option, for `micro_f1`."""
    return {"micro_f1": [doc["gold_index"], choose(doc, results)]}


def score_weighted_f1(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """Return the correct and the chosen option, for `weighted_f1`."""
    return {"weighted_f1": [doc["gold_index"], choose(doc, results)]}


def score_headline(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """Return the class of the question, the correct and the chosen option, for `headline_f1`."""
    return {"headline_f1": [doc["class_id"], doc["gold_index"], choose(doc, results)]}


def score_entities(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return the F1 of the entities in the answer."""
    return {"entity_f1": entity_f1(f" {doc['label']}", results[0])}


def score_number(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return 1 if the answer contains the correct number, else 0."""
    return {"number_match": float(has_same_number(doc["label"], results[0]))}


def micro_f1(items: Sequence[Sequence[int]]) -> float:
    """Return micro-averaged F1 of items [correct, chosen]."""
    return _f1(items, "micro")


def weighted_f1(items: Sequence[Sequence[int]]) -> float:
    """Return the F1 of items [correct, chosen], averaged over options, weighted by how often each is correct."""
    return _f1(items, "weighted")


def headline_f1(items: Sequence[Sequence[int]]) -> float:
    """Return the mean of `weighted_f1` over the classes of questions; items are [class, correct, chosen]."""
    classes = sorted({item[0] for item in items})
    return math.fsum(weighted_f1([item[1:] for item in items if item[0] == name]) for name in classes) / len(classes)


AGGREGATIONS = {"micro_f1": micro_f1, "weighted_f1": weighted_f1, "headline_f1": headline_f1}
"""The metrics that are not the mean of a value per question."""


def _f1(items: Sequence[Sequence[int]], average: str) -> float:
    from sklearn.metrics import f1_score

    correct, chosen = zip(*items, strict=True)
    return float(f1_score(correct, chosen, average=average, zero_division=0.0))


@lru_cache(maxsize=1)
def load_tokenizer(model: str) -> Any:
    """Load the tokenizer of a model folder; the tasks of one evaluation share it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def as_dataset(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows as the split `test`, in the form that lm-evaluation-harness expects of a `custom_dataset`."""
    from datasets import Dataset

    return {"test": Dataset.from_list(list(rows))}


def _read(dataset: str, configuration: str, fields: Sequence[str], data_dir: str | None) -> Iterator[dict[str, Any]]:
    if data_dir is None:
        from datasets import load_dataset

        yield from load_dataset(dataset, configuration, split="test")
        return
    file = find_own_file(Path(data_dir), configuration)
    if file is None:
        reason = f"there is no {configuration}.test.jsonl[.gz] in it"
        raise UserError("data_dir", data_dir, reason, "add the file, with the rows of the task")
    yield from read_local_rows(configuration, fields, file)
