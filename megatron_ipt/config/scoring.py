"""What the scoring of synthesizers is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megatron_ipt.config.settings import NotIdentity, Settings
from megatron_ipt.config.synthesis import EngineConfig


class ScoredModelConfig(Settings):
    """One of the models that are compared."""

    engine: EngineConfig = Field(description="the model and what runs it")
    examples: str | None = Field(
        None, description="JSONL of texts with pairs shown before each text, for a model that is not tuned"
    )


class ScoreConfig(Settings):
    """Synthesizers against questions and answers that none of them was tuned on."""

    input: Annotated[list[str], NotIdentity] = Field(
        description="held-out sets: JSONL of id, set, context and pairs, as the tuning-set stage writes it"
    )
    output: Annotated[str, NotIdentity] = Field(
        description="folder of results.json, report.html and every model's answers and pairs"
    )
    models: dict[str, ScoredModelConfig] = Field(
        description="a name for each model; the first is what others are held against"
    )
    contexts_per_set: int = Field(100, ge=1, description="most contexts of a set, chosen by hash")
    questions_per_context: int = Field(5, ge=1, description="most questions asked about a context, chosen by hash")
    max_answer_tokens: int = Field(
        128, ge=1, description="longest answer to a question; engine.max_new_tokens bounds a text's pairs"
    )
    seed: int = Field(1234, ge=0, le=2**31 - 1, description="seed of the choice of contexts and questions")
