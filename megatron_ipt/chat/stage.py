"""The chat-set stage: conversations to loss-masked, packed datasets, and held-out conversations."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import orjson

from megatron_ipt.chat.conversations import Conversation, read_conversations
from megatron_ipt.chat.encoding import ChatEncoder
from megatron_ipt.chat.fitting import EncodedConversation, encode_conversations
from megatron_ipt.chat.templates import choose_template, read_template
from megatron_ipt.config.chat_set import ChatSetConfig
from megatron_ipt.config.settings import identity_of
from megatron_ipt.corpus.indexed_writer import HAS_LOSS
from megatron_ipt.corpus.manifest import JsonObject, Stage, write_atomically
from megatron_ipt.corpus.rows import BadRow, expand_inputs
from megatron_ipt.corpus.stable_hash import stable_hash
from megatron_ipt.errors import UserError
from megatron_ipt.tokenization.masked_sequences import MaskedSequence, pack_whole, write_sequences
from megatron_ipt.tokenization.tokenizer_files import CHAT_TEMPLATE_NAME, require_tokenizer_files
from megatron_ipt.tokenization.tokenizers import read_tokenizer
from megatron_ipt.tokenization.transformers_tokenizer import describe_tokenizer, open_tokenizer

logger = logging.getLogger(__name__)

PREFIX_NAME = "chat_text_document"
HELDOUT_NAME = "heldout.jsonl"


def build_chat_set(config: ChatSetConfig) -> JsonObject:
    """Write the chat set into `config.output`, and return the counts.

    Raises:
        UserError: a setting, a file, a row or the template is invalid, or the output folder holds something else.
    """
    folder, given = Path(config.tokenizer), read_template(config.chat_template)
    files, padding_id = expand_inputs(config.input), read_tokenizer(folder).eos_id
    identity = {**identity_of(config), "chat_template": given}
    stage = Stage("chat-set", Path(config.output), identity, [*files, *require_tokenizer_files(folder)], config.seed)
    if stage.is_complete:
        logger.info("%s is complete, nothing to do", config.output)
        return stage.counts
    tokenizer = open_tokenizer(folder)
    template, loaded = choose_template(given, tokenizer, config.chat_template_kwargs), describe_tokenizer(tokenizer)
    encoder, left_out, skipped = ChatEncoder(loaded, template), Counter[str](), list[BadRow]()
    conversations = sorted(read_conversations(config, files, skipped.append), key=lambda one: _order(one, config.seed))
    encoded = list(encode_conversations(conversations, encoder, config, left_out, skipped.append))
    for bad in skipped:
        logger.warning("skipped %s: %s", bad.location, bad.reason)
    heldout, training = _hold_out(encoded, config.heldout_conversations, left_out)
    if not training:
        raise UserError("input", ", ".join(config.input), "no conversation is left for training", "give more of them")
    stage.start()  # only now, so that a mistake in the settings leaves no folder behind
    sequences = list(pack_whole(training, config.seq_length, padding_id))
    outputs = write_sequences(sequences, stage.folder / PREFIX_NAME, loaded.vocab_size)
    rows = "".join(orjson.dumps(one.values()).decode() + "\n" for one in heldout)
    for name, text in ((HELDOUT_NAME, rows), (CHAT_TEMPLATE_NAME, template.text)):
        outputs.append(stage.folder / name)
        write_atomically(outputs[-1], text)
    counts: JsonObject = {
        "conversations": len(training),
        "heldout_conversations": len(heldout),
        "sequences": len(sequences),
        "tokens": len(sequences) * config.seq_length,
        "tokens_with_loss": sum(int((sequence.mask & HAS_LOSS).sum()) for sequence in sequences),
        "turn_ends": dict(sorted(encoder.turn_ends.items())),
        "left_out": dict(sorted((+left_out).items())),
        "skipped_rows": len(skipped),
    }
    stage.finish(outputs, counts)
    return counts


def _order(conversation: Conversation, seed: int) -> int:
    return stable_hash(seed, orjson.dumps(conversation.values()).decode())


def _hold_out(
    encoded: list[EncodedConversation], count: int, left_out: Counter[str]
) -> tuple[list[Conversation], list[MaskedSequence]]:
    """Set the first `count` conversations aside; they, and the sequences of all others with other prompts."""
    heldout = [one.conversation for one in encoded[:count]]
    prompts = {one.prompt for one in heldout}
    training = [one.sequence for one in encoded[count:] if one.conversation.prompt not in prompts]
    left_out["prompt that is held out"] += len(encoded) - len(heldout) - len(training)
    return heldout, training
