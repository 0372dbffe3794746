"""Settings for the scoring of synthesizers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megatron_ipt.config.settings import DEFAULT_SEED, NotIdentity, Seed, Settings
from megatron_ipt.config.synthesis import EngineConfig


class ScoredModelConfig(Settings):
    """A model to compare."""

    engine: EngineConfig = Field(description="the model and the engine that runs it")
    examples: str | None = Field(
        None, description="JSONL file of few-shot examples, for a model that was not tuned as a synthesizer"
    )


class ScoreConfig(Settings):
    """Comparison of synthesizers on questions and answers that none of them was tuned on."""

    input: Annotated[list[str], NotIdentity] = Field(
        description="held-out sets: JSONL with id, set, context and pairs, as the tuning-set stage writes them"
    )
    output: Annotated[str, NotIdentity] = Field(
        description="folder for results.json, report.html, and the answers and pairs of every model"
    )
    models: dict[str, ScoredModelConfig] = Field(min_length=1, description="models by name; the first is the baseline")
    contexts_per_set: int = Field(100, ge=1, description="maximum number of contexts per set, chosen by hash")
    questions_per_context: int = Field(5, ge=1, description="maximum number of questions per context, chosen by hash")
    max_answer_tokens: int = Field(
        128,
        ge=1,
        description="maximum length of an answer, in tokens; engine.max_new_tokens limits the pairs of a text",
    )
    seed: Seed = Field(DEFAULT_SEED, description="seed of the choice of contexts and questions")
