"""Whether documents end with the token by which the trainer knows their ends, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.config.pretrain import DataConfig
from megatron_ipt.data.indexed_writer import read_last_ids
from megatron_ipt.errors import Problem

_MOST_DOCUMENTS = 1000  # read of each dataset: enough to meet what one document in a hundred lacks


@dataclass(frozen=True)
class DocumentEnds:
    """Of the documents of `prefix` that were read, how many end with the EOS token."""

    prefix: str
    read: int
    with_eos: int


def find_missing_ends(data: DataConfig, eos_id: int) -> Iterator[Problem]:
    """Datasets on which `reset_attention_mask` or `eod_mask_loss` would do nothing: no document ends with EOS."""
    for ends in _count_ends(data, eos_id):
        if ends.read and not ends.with_eos:
            yield Problem(
                " and ".join(_settings(data)),
                True,
                f"no document of {ends.prefix} ends with the EOS token {eos_id} of data.tokenizer ({ends.read:,} read)",
                "make the dataset again with append_eod=true and this tokenizer, or switch the setting off",
            )


def describe_missing_ends(data: DataConfig, eos_id: int) -> list[str]:
    """A warning for each dataset in which some documents lack the EOS token that `data` needs at their ends."""
    return [
        f"{ends.prefix}: {ends.read - ends.with_eos:,} of {ends.read:,} documents read do not end with the EOS token"
        f" {eos_id}; {' and '.join(_settings(data))} has no effect at their ends"
        for ends in _count_ends(data, eos_id)
        if 0 < ends.with_eos < ends.read
    ]


def _count_ends(data: DataConfig, eos_id: int) -> Iterator[DocumentEnds]:
    if not _settings(data):
        return
    for entry in data.blend:
        ids = read_last_ids(Path(entry.prefix), _MOST_DOCUMENTS)
        yield DocumentEnds(entry.prefix, ids.size, int((ids == eos_id).sum()))


def _settings(data: DataConfig) -> list[str]:
    """The settings in use that depend on document ends."""
    return [f"data.{name}" for name in ("reset_attention_mask", "eod_mask_loss") if getattr(data, name)]
