"""Settings for the tuning set of a synthesizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_ipt.config.settings import DEFAULT_SEED, NotIdentity, Seed, Settings


class CollectionConfig(Settings):
    """Files of questions and answers about contexts; the defaults are the fields of the paper's public collection.

    `outer.inner` names a nested field.
    """

    name: str = Field(description="name of the set, for rows that do not name their own")
    input: list[str] = Field(
        description="JSONL (.gz, .zst, .bz2, .xz), parquet or, for squad, JSON files; globs allowed"
    )
    format: Literal["pairs", "columns", "squad"] = Field(
        "pairs",
        description="pairs: a list of pairs per row; columns: one pair or parallel lists per row; squad: SQuAD's JSON",
    )
    set_key: str | None = Field(None, description="field with the name of the set, if the files hold several (rc_name)")
    context_key: str = Field("context", description="field of the context")
    pairs_key: str = Field("QA_list", description="pairs: field of the list of pairs")
    question_key: str = Field("Q", description="field of the question")
    answer_key: str = Field("A", description="field of the answer; the first one of a list is used")
    options_key: str | None = Field(None, description="field of a list of options, for multiple choice")
    reasoning_key: str | None = Field(
        None, description="field of the reasoning before the answer, for chain of thought"
    )


class TuningSetConfig(Settings):
    """Sequences to tune an instruction synthesizer on, made from questions and answers about contexts."""

    collections: list[CollectionConfig] = Field(min_length=1, description="sources of questions and answers")
    output: Annotated[str, NotIdentity] = Field(description="folder of the tuning set")
    tokenizer: Annotated[str, NotIdentity] = Field(description="Hugging Face tokenizer folder of the model to tune")
    seq_length: int = Field(4096, ge=1, description="tokens per sequence, which holds consecutive examples of one set")
    max_examples_per_set: int = Field(
        10_000, ge=1, description="maximum number of contexts per set; those with the most pairs are used"
    )
    min_pairs: int = Field(1, ge=1, description="minimum number of pairs of a training context")
    heldout_sets: list[str] = Field(default_factory=list, description="sets reserved for scoring")
    heldout_contexts: int = Field(0, ge=0, description="contexts of each other set reserved for scoring")
    bad_input: Literal["fail", "skip"] = Field(
        "fail", description="response to a row that cannot be read or has other fields"
    )
    seed: Seed = Field(DEFAULT_SEED, description="seed of held-out choice, order and packing")
