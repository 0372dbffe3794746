"""A small model that is tuned on real questions in a moment, through the command lines."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from small_models import write_small_mistral

from megatron_ipt.cli import build_chat_set, convert_checkpoint, pretrain_gpt
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.pretrain import PretrainConfig

END = "<|eot|>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant:{% endif %}"
)
SEQ_LENGTH = 512
_ROWS, _STEPS, _BATCH = 2000, 60, 8


@dataclass(frozen=True)
class TunedModel:
    """Folders of a model before and after tuning, and of the chat set; its answers are Yes and No."""

    base: Path
    chat_set: Path
    run: Path
    hf: Path


def tune_small_model(quickstart_inputs: Path, folder: Path) -> TunedModel:
    """Tune a random Mistral on questions of BoolQ; what ends its answers is not its EOS."""
    base = write_small_mistral(
        folder / "base",
        max_position_embeddings=1024,
        sliding_window=None,
        special_tokens=["<|turn|>", END],
        hidden_size=128,
        num_attention_heads=4,  # of 32 numbers each: vLLM has no smaller ones
    )
    tuned = TunedModel(base, folder / "set", folder / "run", folder / "hf")
    _write_questions(quickstart_inputs, folder / "rows.jsonl")
    (folder / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    settings = [f"input=[{folder / 'rows.jsonl'}]", f"output={tuned.chat_set}", f"tokenizer={base}"]
    settings += [f"chat_template={folder / 'chat.jinja'}", f"seq_length={SEQ_LENGTH}", "heldout_conversations=20"]
    assert build_chat_set.main(settings) == 0
    assert convert_checkpoint.main(["hf-to-mcore", "--input", str(base), "--output", str(folder / "start")]) == 0
    config = {
        "run": str(tuned.run),
        "model": load_config(PretrainConfig, folder / "start" / "run_config.yaml").model.__dict__,
        "data": {
            "tokenizer": str(base),
            "blend": [{"prefix": str(tuned.chat_set / "chat_text_document")}],
            "split": "90,10,0",
            "seq_length": SEQ_LENGTH,
            "reset_attention_mask": True,
        },
        "precision": {"bf16": False},
        "training": {
            "train_iters": _STEPS,
            "micro_batch_size": _BATCH,
            "global_batch_size": _BATCH,
            "log_interval": 20,
            "eval_iters": 1,
            "calculate_per_token_loss": True,
        },
        "optimizer": {"lr": 3e-3, "min_lr": 3e-4},
        "schedule": {"lr_warmup_iters": 5},
        "checkpoint": {"pretrained_checkpoint": str(folder / "start")},
        "tracking": {"tensorboard": False},
    }
    (folder / "pretrain.yaml").write_text(json.dumps(config), encoding="utf-8")
    assert pretrain_gpt.main(["--config", str(folder / "pretrain.yaml")]) == 0
    assert convert_checkpoint.main(["mcore-to-hf", "--input", str(tuned.run), "--output", str(tuned.hf)]) == 0
    return tuned


def _write_questions(quickstart_inputs: Path, file: Path) -> None:
    with gzip.open(quickstart_inputs / "eval" / "boolq.train.jsonl.gz", "rt", encoding="utf-8") as lines:
        questions = [json.loads(line) for _, line in zip(range(_ROWS), lines, strict=False)]
    rows = [{"prompt": one["question"], "completion": "Yes" if one["label"] else "No"} for one in questions]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def heldout_messages(tuned: TunedModel) -> list[list[dict[str, str]]]:
    """The held-out conversations."""
    return [json.loads(line)["messages"] for line in (tuned.chat_set / "heldout.jsonl").read_text().splitlines()]
