"""The arguments that reach Transformer Engine's attention: `make test-te`.

No GPU is needed: the attention is called, and nothing is computed.
"""

from __future__ import annotations

from pathlib import Path

from engines import ENGINE, run_job, settings


def test_attention_to_packed_documents_is_bounded_by_the_longest(tmp_path: Path) -> None:
    """Not by the sample, for which Transformer Engine may have to take slower kernels; and nothing waits for it."""
    data = {"seq_length": 1024, "reset_attention_mask": True, "reset_position_ids": True}
    documents = [[300, 600, 124], [512, 512]]
    order = {"config": settings(ENGINE, tmp_path / "run", data=data), "documents": documents}
    assert run_job("attention_job.py", order, tmp_path / "order.json") == {
        "tokens": 2048,
        "offsets": [0, 300, 900, 1024, 1536, 2048],
        "longest": [640, 640],
        "format": "thd",
        "mask": "padding_causal",
        "waits": [],
    }
