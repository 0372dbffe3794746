"""What the building of a synthesizer-tuning set is told."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class CollectionConfig:
    """Files of context-based questions and answers; the defaults are the fields of the paper's public collection.

    A field may stand within another: `answers.text`.
    """

    name: str = setting(help="name of the set, for rows that do not name their own")
    input: list[str] = setting(help="JSONL (.gz, .zst, .bz2, .xz), parquet or, for squad, JSON files; globs allowed")
    format: str = setting(
        "pairs", "pairs: a context and a list of pairs a row; columns: one pair a row, or lists; squad: SQuAD's JSON"
    )
    set_key: str | None = setting(None, "field that names the row's set, where the files hold several (rc_name)")
    context_key: str = setting("context", "field of the context")
    pairs_key: str = setting("QA_list", "pairs: field of the list of pairs")
    question_key: str = setting("Q", "field of the question")
    answer_key: str = setting("A", "field of the answer; of a list of accepted ones the first")
    options_key: str | None = setting(None, "field of a list of options, for multiple choice")
    reasoning_key: str | None = setting(None, "field of the reasoning before the answer, for chain of thought")


@dataclass(frozen=True, kw_only=True)
class TuningSetConfig:
    """Context-based questions and answers to the sequences that an instruction synthesizer is tuned on."""

    collections: list[CollectionConfig] = setting(
        help="where the questions and answers come from: entries of name, input, format and the fields' names"
    )
    output: str = setting(help="folder of the tuning set")
    tokenizer: str = setting(help="Hugging Face tokenizer folder of the model to tune")
    seq_length: int = setting(4096, "tokens of a sequence; examples of one set follow one another in it")
    max_examples_per_set: int = setting(10_000, "most contexts of a set: those with most pairs")
    min_pairs: int = setting(1, "least pairs of a context to learn from")
    heldout_sets: list[str] = setting(factory=list, help="sets kept apart for scoring, never trained on")
    heldout_contexts: int = setting(0, "contexts of every other set kept apart for scoring")
    bad_input: str = setting("fail", "fail or skip: what to do with a row that cannot be read or is of another layout")
    seed: int = setting(1234, "seed of what is held out, of the order and of the packing")
