"""The tuning-set stage: question-answering collections to indexed datasets, and held-out examples for scoring."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson

from megatron_ipt.config.settings import identity_of
from megatron_ipt.config.tuning_set import TuningSetConfig
from megatron_ipt.corpus.manifest import JsonObject, Stage, write_atomically
from megatron_ipt.corpus.rows import BadRow, expand_inputs
from megatron_ipt.corpus.stable_hash import stable_hash
from megatron_ipt.errors import UserError
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer, load_prompt_tokenizer
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.pairs.formats import format_of
from megatron_ipt.pairs.grammar import Example
from megatron_ipt.synthesizer.tuning.collections import read_collection
from megatron_ipt.synthesizer.tuning.gathering import Gathered, gather
from megatron_ipt.synthesizer.tuning.sequences import pack
from megatron_ipt.tokenization.masked_sequences import MaskedSequence, write_sequences
from megatron_ipt.tokenization.tokenizers import tokenizer_file

logger = logging.getLogger(__name__)

PREFIX_NAME = "tuning_text_document"


def build_tuning_set(config: TuningSetConfig) -> JsonObject:
    """Write the tuning set into `config.output`, and return the counts.

    Raises:
        UserError: a setting, a file or a row is invalid, or the output folder holds something else.
    """
    files = [file for collection in config.collections for file in expand_inputs(collection.input)]
    identity = identity_of(config)
    for collection in identity["collections"]:
        collection["input"] = [file.name for file in expand_inputs(collection["input"])]
    inputs = [*files, tokenizer_file(Path(config.tokenizer))]
    stage = Stage("tuning-set", Path(config.output), identity, inputs, config.seed)
    if stage.is_complete:
        logger.info("%s is complete, nothing to do", config.output)
        return stage.counts
    tokenizer = _load_tokenizer(config.tokenizer)
    skipped: list[BadRow] = []
    gathered = gather(
        (source for one in config.collections for source in read_collection(one, config.bad_input, skipped.append)),
        config,
    )
    for bad in skipped:
        logger.warning("skipped %s: %s", bad.location, bad.reason)
    _check_sets(config, gathered)
    stage.start()  # only now, so that a misspelled field name leaves no folder behind
    sets, sequences = _pack_sets(gathered, tokenizer, config)
    outputs = write_sequences(sequences, stage.folder / PREFIX_NAME, tokenizer.vocab_size)
    for name in ("heldout_sets", "heldout_contexts"):
        outputs.append(stage.folder / f"{name}.jsonl")
        write_atomically(outputs[-1], "".join(_heldout_rows(getattr(gathered, name))))
    counts: JsonObject = {
        "sequences": len(sequences),
        "tokens": sum(sequence.ids.size for sequence in sequences),
        "tokens_with_loss": sum(int(sequence.mask.sum()) for sequence in sequences),
        "sets": sets,
        "left_out": dict(sorted((+gathered.left_out).items())),
        "skipped_rows": len(skipped),
    }
    stage.finish(outputs, counts)
    return counts


def _load_tokenizer(folder: str) -> PromptTokenizer:
    tokenizer = load_prompt_tokenizer(folder)
    if not tokenizer.eos_ids:
        reason = "it names no EOS token, without which the model cannot learn to stop"
        raise UserError("tokenizer", folder, reason, "set eos_token in its tokenizer_config.json")
    return tokenizer


def _check_sets(config: TuningSetConfig, gathered: Gathered) -> None:
    known = sorted({*gathered.training, *gathered.heldout_sets})
    if unknown := sorted(set(config.heldout_sets) - set(known)):
        raise UserError("heldout_sets", unknown[0], "the collections have no such set", f"one of {', '.join(known)}")
    if not any(gathered.training.values()):
        raise UserError("collections", ", ".join(known), "no example is left for training", "hold out fewer contexts")


def _pack_sets(
    gathered: Gathered, tokenizer: PromptTokenizer, config: TuningSetConfig
) -> tuple[dict[str, dict[str, int]], list[MaskedSequence]]:
    """Pack the sequences of all sets, shuffled so that any part of them mixes the sets; return counts by set, too."""
    counts: dict[str, dict[str, int]] = {}
    drawn: list[tuple[int, MaskedSequence]] = []
    for name, examples in gathered.training.items():
        with ProgressDisplay(name, "contexts") as display:
            packed = list(pack(display.track(examples), tokenizer, config.seq_length, gathered.left_out))
        drawn += [(stable_hash(config.seed, name, number), sequence) for number, sequence in enumerate(packed)]
        counts[name] = {"contexts": len(examples), "sequences": len(packed), **count_pairs(examples)}
        logger.info("%s: %d contexts in %d sequences", name, len(examples), len(packed))
    return counts, [sequence for _, sequence in sorted(drawn, key=lambda one: one[0])]


def count_pairs(examples: Iterable[Example]) -> dict[str, int]:
    """Count the pairs of `examples`, in all and by format."""
    pairs = [pair for example in examples for pair in example.pairs]
    found = Counter(map(format_of, pairs))
    return {"pairs": len(pairs), **dict(sorted(found.items()))}


def _heldout_rows(sets: Mapping[str, list[Example]]) -> Iterable[str]:
    for name, examples in sets.items():
        for number, example in enumerate(examples):
            pairs = [{"Q": pair.question, "A": pair.answer} for pair in example.pairs]
            row = {"id": f"{name}-{number}", "set": name, "context": example.text, "pairs": pairs}
            yield orjson.dumps(row).decode() + "\n"
