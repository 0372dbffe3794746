"""Check, without torch, that documents end with the EOS token, by which the trainer finds their ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.config.pretrain import DataConfig
from megatron_ipt.corpus.indexed_writer import marks_documents, read_last_ids
from megatron_ipt.errors import Problem

_MAX_DOCUMENTS = 1000  # per dataset: finds a defect of 1% of the documents with a probability of 0.99996


@dataclass(frozen=True)
class EosCount:
    """The number of documents of `prefix` that were read, and of those that end with the EOS token."""

    prefix: str
    read: int
    with_eos: int


def find_missing_eos(data: DataConfig, eos_id: int) -> Iterator[Problem]:
    """Find datasets for which `reset_attention_mask` or `eod_mask_loss` has no effect, or a harmful one.

    They have no effect if no document ends with EOS. In conversations, EOS may end every turn.
    """
    for entry in data.blend:
        if data.eod_mask_loss and marks_documents(Path(entry.prefix)):
            reason = f"EOS ends the answers in {entry.prefix}, and without loss on it the model does not learn to stop"
            yield Problem("data.eod_mask_loss", True, reason, "turn it off: the dataset has its own loss mask")
    for found in _count_eos(data, eos_id):
        if found.read and not found.with_eos:
            yield Problem(
                " and ".join(_settings(data)),
                True,
                f"no document of {found.prefix} ends with the EOS token {eos_id} of data.tokenizer"
                f" ({found.read:,} were read)",
                "preprocess the dataset again with append_eod=true and this tokenizer, or turn the setting off",
            )


def describe_missing_eos(data: DataConfig, eos_id: int) -> list[str]:
    """Return a warning for each dataset some of whose documents lack the EOS token that a setting depends on."""
    return [
        f"{found.prefix}: {found.read - found.with_eos:,} of {found.read:,} documents read do not end with the EOS"
        f" token {eos_id}; {' and '.join(_settings(data))} has no effect at their ends"
        for found in _count_eos(data, eos_id)
        if 0 < found.with_eos < found.read
    ]


def _count_eos(data: DataConfig, eos_id: int) -> Iterator[EosCount]:
    if not _settings(data):
        return
    for entry in data.blend:
        if marks_documents(Path(entry.prefix)):
            continue
        ids = read_last_ids(Path(entry.prefix), _MAX_DOCUMENTS)
        yield EosCount(entry.prefix, ids.size, int((ids == eos_id).sum()))


def _settings(data: DataConfig) -> list[str]:
    """Return the names of the enabled settings that depend on document ends."""
    return [f"data.{name}" for name in ("reset_attention_mask", "eod_mask_loss") if getattr(data, name)]
