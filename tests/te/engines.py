"""Jobs with megatron-core's own layers or Transformer Engine's, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCAL, ENGINE = "local", "transformer_engine"
MODEL = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 256,
}


def settings(engine: str, run: Path, **sections: Any) -> dict[str, Any]:
    """A configuration of pretrain for a small model; `sections` are added to those of the same name."""
    base: dict[str, Any] = {
        "model": MODEL,
        "data": {"tokenizer": "none", "seq_length": 16},
        "precision": {"transformer_impl": engine},
        "training": {"global_batch_size": 1},
    }
    return {"run": str(run), **base, **{name: {**base.get(name, {}), **given} for name, given in sections.items()}}


def run_job(script: str, order: dict[str, Any], file: Path) -> dict[str, Any]:
    """Write the order to `file`, run the job, and return the JSON that it prints."""
    file.write_text(json.dumps(order), encoding="utf-8")
    job = [sys.executable, str(Path(__file__).with_name(script)), str(file)]
    done = subprocess.run(job, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    described: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return described
