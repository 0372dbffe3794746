"""The output of a synthesis in parts: a part that is there is finished, whatever killed the run after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import orjson

from megatron_ipt.corpus.manifest import write_atomically
from megatron_ipt.synthesis.augmentation import Augmented
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.templates import Template

DOCUMENTS_NAME = "augmented.jsonl"
PAIRS_NAME = "pairs.jsonl"


class Parts:
    """The parts of one output folder, in FOLDER/parts until they are joined."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._parts = folder, folder / "parts"

    def read_counts(self, number: int) -> Counts | None:
        """What part `number` counted; None when it is not finished."""
        file = self._file(number, "counts.json")
        return Counts.from_dict(orjson.loads(file.read_bytes())) if file.is_file() else None

    def write(self, number: int, results: Iterable[Augmented], template: Template, counts: Counts) -> None:
        """Write part `number`; its counts come last, and say that it is finished."""
        self._parts.mkdir(exist_ok=True)
        results = list(results)
        write_atomically(self._file(number, DOCUMENTS_NAME), _lines(_document(one, template) for one in results))
        write_atomically(self._file(number, PAIRS_NAME), _lines(row for one in results for row in _pairs(one)))
        write_atomically(self._file(number, "counts.json"), orjson.dumps(counts.to_dict()).decode())

    def join(self, parts: int) -> list[Path]:
        """Join `parts` parts into the two files of the corpus."""
        files = [self._join(name, parts) for name in (DOCUMENTS_NAME, PAIRS_NAME)]
        shutil.rmtree(self._parts, ignore_errors=True)
        return files

    def _join(self, name: str, parts: int) -> Path:
        joined = self._folder / name
        with joined.open("wb") as target:
            for number in range(parts):
                with self._file(number, name).open("rb") as source:
                    shutil.copyfileobj(source, target)
        return joined

    def _file(self, number: int, name: str) -> Path:
        return self._parts / f"part-{number:06d}.{name}"


def _lines(rows: Iterable[dict[str, object]]) -> str:
    return "".join(orjson.dumps(row).decode() + "\n" for row in rows)


def _document(one: Augmented, template: Template) -> dict[str, object]:
    texts, pairs = one.chain.texts, sum(len(example.pairs) for example in one.examples)
    return {
        "id": texts[0].id,
        "text": template.render(one.examples),
        "kind": "augmented" if pairs else "raw",
        "sources": [text.id for text in texts],
        "pairs": pairs,
    }


def _pairs(one: Augmented) -> Iterable[dict[str, object]]:
    for text, example in zip(one.chain.texts, one.examples, strict=True):
        if example.pairs:
            yield {"id": text.id, "pairs": [asdict(pair) for pair in example.pairs]}
