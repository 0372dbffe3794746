"""What the scoring of synthesizers is told."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.setting import setting
from megatron_ipt.config.synthesis import EngineConfig


@dataclass(frozen=True, kw_only=True)
class ScoredModelConfig:
    """One of the models that are compared."""

    engine: EngineConfig = setting(help="the model and what runs it")
    examples: str | None = setting(
        None, "JSONL of texts with pairs shown before each text, for a model that is not tuned"
    )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Synthesizers against questions and answers that none of them was tuned on."""

    input: list[str] = setting(
        help="held-out sets: JSONL of id, set, context and pairs, as the tuning-set stage writes it"
    )
    output: str = setting(help="folder of results.json, report.html and every model's answers and pairs")
    models: dict[str, ScoredModelConfig] = setting(
        help="a name for each model; the first is what others are held against"
    )
    contexts_per_set: int = setting(100, "most contexts of a set, chosen by hash")
    questions_per_context: int = setting(5, "most questions asked about a context, chosen by hash")
    max_answer_tokens: int = setting(128, "longest answer to a question; engine.max_new_tokens bounds a text's pairs")
    seed: int = setting(1234, "seed of the choice of contexts and questions")
