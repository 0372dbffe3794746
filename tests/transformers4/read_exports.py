"""Print, as JSON, how the transformers of this interpreter reads export folders; the tests run it under two versions.

read_exports.py TEXTS.json FOLDER...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers


def main() -> None:
    """Read the folders and print."""
    texts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    read = {folder: describe(folder, texts) for folder in sys.argv[2:]}
    print(json.dumps({"version": transformers.__version__, "folders": read}))


def describe(folder: str, texts: list[str]) -> dict[str, Any]:
    """Ids and texts by its tokenizer, and the shape and logits of its model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(texts)["input_ids"]
    config = transformers.AutoConfig.from_pretrained(folder)
    return {
        "ids": ids,
        "as_text": tokenizer(texts, split_special_tokens=True)["input_ids"],
        "as_lm_eval": transformers.AutoTokenizer.from_pretrained(folder, add_bos_token=True).encode("some text"),
        "decoded": tokenizer.batch_decode(ids, skip_special_tokens=True),
        "inputs": sorted(tokenizer("a")),
        "special": {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")},
        "chat_template": tokenizer.chat_template,
        "model": [config.model_type, config.vocab_size, config.bos_token_id, config.eos_token_id, str(config.dtype)],
        "logits": logits(folder, ids[0]),
    }


@torch.no_grad()
def logits(folder: str, ids: list[int]) -> list[float]:
    """The last position's."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    found: list[float] = model(torch.tensor([ids])).logits[0, -1].tolist()
    return found


if __name__ == "__main__":
    main()
