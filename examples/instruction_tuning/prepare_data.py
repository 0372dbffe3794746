#!/usr/bin/env python
"""Write real instruction data for the CPU example: Social IQA's training questions as prompts and completions."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LABELS = {"1": "answerA", "2": "answerB", "3": "answerC"}


def write_rows(source: Path, target: Path, rows: int) -> None:
    """Write the first `rows` questions of `source`, without the wrong answers."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt", encoding="utf-8") as lines, target.open("w", encoding="utf-8") as handle:
        for _, line in zip(range(rows), lines, strict=False):
            question = json.loads(line)
            prompt = f"{question['context']} {question['question']}"
            row = {"prompt": prompt, "completion": question[LABELS[question["label"]]]}
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    questions = CHECKOUT / ".cache" / "quickstart" / "eval" / "social_iqa.train.jsonl.gz"
    parser.add_argument("--input", type=Path, default=questions, metavar="FILE")
    parser.add_argument("--output", type=Path, default=Path("runs/instruction_tuning_cpu/data.jsonl"), metavar="FILE")
    parser.add_argument("--rows", type=int, default=4000)
    arguments = parser.parse_args()
    write_rows(arguments.input, arguments.output, arguments.rows)


if __name__ == "__main__":
    main()
