"""Questions about texts that the model was not trained on: the loss of reference answers, the F1 of generated ones.

The rows are those that `tuning-set` holds out: {"id": ID, "set": SET, "context": TEXT, "pairs": [{"Q": QUESTION, "A":
ANSWER}]}. They are read from context_qa.test.jsonl in `data_dir`. The tasks in `tasks/context_qa_*.yaml` refer to the
functions here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.corpus.rows import ObjectRow, read_objects
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.domain_tasks import as_dataset, load_tokenizer
from megatron_ipt.evaluation.local_data import find_own_file
from megatron_ipt.pairs.answer_match import find_f1, is_exact

_FORM = '{"context": TEXT, "pairs": [{"Q": QUESTION, "A": ANSWER}]}'


def load(pretrained: str, data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """Load one row per question, with its prompt and the number of tokens that the answer adds to it.

    Called by lm-evaluation-harness with the arguments of the model and its metadata.

    Raises:
        UserError: there is no `data_dir` or no file in it, or, at FILE:LINE, a row has another form.
    """
    tokenizer = load_tokenizer(settings.get("tokenizer") or pretrained)
    rows = []
    for context, question, answer in _questions(_file(data_dir)):
        prompt = f"{context}\n\nQuestion: {question}\nAnswer:"
        tokens = len(tokenizer(f"{prompt} {answer}")["input_ids"]) - len(tokenizer(prompt)["input_ids"])
        rows.append({"prompt": prompt, "answer": answer, "answer_tokens": tokens})
    return as_dataset(rows)


def score_loss(doc: Mapping[str, Any], results: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return the loss of the answer, in nats, and its number of tokens, for `token_loss`.

    `results` holds one (log-likelihood, is_greedy).
    """
    return {"token_loss": [-results[0][0], doc["answer_tokens"]]}


def score_answer(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return token F1 and exact match of the generated answer."""
    return {
        "f1": find_f1(results[0], doc["answer"]),
        "exact_match": float(is_exact(results[0], doc["answer"])),
    }


def token_loss(items: Sequence[Sequence[float]]) -> float:
    """Return the loss in nats per token over all answers; each item is [loss, tokens] of one answer."""
    return math.fsum(loss for loss, _ in items) / sum(tokens for _, tokens in items)


def _file(data_dir: str | None) -> Path:
    if data_dir is None:
        reason, remedy = "context_qa has no data on the hub", "give a folder with context_qa.test.jsonl"
        raise UserError("data_dir", "(not set)", reason, remedy)
    file = find_own_file(Path(data_dir), "context_qa")
    if file is None:
        reason = "there is no context_qa.test.jsonl[.gz] in it"
        raise UserError("data_dir", data_dir, reason, f"add the file, with rows of {_FORM}")
    return file


def _questions(file: Path) -> Iterator[tuple[str, str, str]]:
    for row in read_objects([file]):
        yield from _pairs(row)


def _pairs(row: ObjectRow) -> list[tuple[str, str, str]]:
    try:
        return [(str(row.values["context"]), str(pair["Q"]), str(pair["A"])) for pair in row.values["pairs"]]
    except (KeyError, TypeError) as error:
        where = f"{row.file}:{row.line}"
        raise UserError(where, "(bad row)", f"not a context with pairs ({error})", f"write {_FORM}") from error
