"""What the building of a synthesizer-tuning set is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_ipt.config.settings import NotIdentity, Settings


class CollectionConfig(Settings):
    """Files of context-based questions and answers; the defaults are the fields of the paper's public collection.

    A field may stand within another: `answers.text`.
    """

    name: str = Field(description="name of the set, for rows that do not name their own")
    input: list[str] = Field(
        description="JSONL (.gz, .zst, .bz2, .xz), parquet or, for squad, JSON files; globs allowed"
    )
    format: Literal["pairs", "columns", "squad"] = Field(
        "pairs",
        description="pairs: a context and a list of pairs a row; columns: one pair a row, or lists; squad: SQuAD's JSON",
    )
    set_key: str | None = Field(
        None, description="field that names the row's set, where the files hold several (rc_name)"
    )
    context_key: str = Field("context", description="field of the context")
    pairs_key: str = Field("QA_list", description="pairs: field of the list of pairs")
    question_key: str = Field("Q", description="field of the question")
    answer_key: str = Field("A", description="field of the answer; of a list of accepted ones the first")
    options_key: str | None = Field(None, description="field of a list of options, for multiple choice")
    reasoning_key: str | None = Field(
        None, description="field of the reasoning before the answer, for chain of thought"
    )


class TuningSetConfig(Settings):
    """Context-based questions and answers to the sequences that an instruction synthesizer is tuned on."""

    collections: list[CollectionConfig] = Field(
        description="where the questions and answers come from: entries of name, input, format and the fields' names"
    )
    output: Annotated[str, NotIdentity] = Field(description="folder of the tuning set")
    tokenizer: Annotated[str, NotIdentity] = Field(description="Hugging Face tokenizer folder of the model to tune")
    seq_length: int = Field(
        4096, ge=1, description="tokens of a sequence; examples of one set follow one another in it"
    )
    max_examples_per_set: int = Field(10_000, ge=1, description="most contexts of a set: those with most pairs")
    min_pairs: int = Field(1, ge=1, description="least pairs of a context to learn from")
    heldout_sets: list[str] = Field(default_factory=list, description="sets kept apart for scoring, never trained on")
    heldout_contexts: int = Field(0, ge=0, description="contexts of every other set kept apart for scoring")
    bad_input: Literal["fail", "skip"] = Field(
        "fail", description="fail or skip: what to do with a row that cannot be read or is of another layout"
    )
    seed: int = Field(1234, ge=0, le=2**31 - 1, description="seed of what is held out, of the order and of the packing")
