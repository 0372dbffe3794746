#!/usr/bin/env python
"""Write BoolQ's shortest training passages as two corpora: alone, and followed by their questions and answers."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def write_corpora(source: Path, folder: Path, rows: int) -> None:
    """Write passages.jsonl and questions.jsonl, with the `rows` shortest passages of `source`, to `folder`."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        examples = sorted(map(json.loads, lines), key=lambda example: len(example["passage"]))[:rows]
    folder.mkdir(parents=True, exist_ok=True)
    corpora = {
        "passages": [example["passage"] for example in examples],
        "questions": [
            f"{example['passage']}\nQuestion: {example['question']}?\nAnswer: {'yes' if example['label'] else 'no'}"
            for example in examples
        ],
    }
    for name, texts in corpora.items():
        rows_of_json = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text("".join(rows_of_json), encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    questions = CHECKOUT / ".cache" / "quickstart" / "eval" / "boolq.train.jsonl.gz"
    parser.add_argument("--input", type=Path, default=questions, metavar="FILE")
    parser.add_argument("--output", type=Path, default=Path("runs/compare_runs"), metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=3000)
    arguments = parser.parse_args()
    write_corpora(arguments.input, arguments.output, arguments.rows)


if __name__ == "__main__":
    main()
