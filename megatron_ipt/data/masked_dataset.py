"""megatron-core's GPT dataset with loss on selected tokens, given by a second dataset PREFIX_loss_mask."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_ipt.corpus.indexed_writer import BEGINS_DOCUMENT, HAS_LOSS, LOSS_MASK_SUFFIX, marks_documents
from megatron_ipt.data.sample_indices import index_file, write_indices
from megatron_ipt.errors import UserError


class MaskedGPTDataset(GPTDataset):
    """A GPT dataset; if PREFIX_loss_mask exists, the loss mask of a sample is the mask of its labels.

    The mask dataset holds flags for each token of each document. It is indexed by the same document, sample and shuffle
    indices, so that it yields the mask of the very tokens of a sample. If it marks where documents begin, positions
    that restart do so there, not after each EOS, which may end a turn of a conversation.
    """

    def __init__(self, indexed_dataset: IndexedDataset, *arguments: Any, **settings: Any) -> None:
        super().__init__(indexed_dataset, *arguments, **settings)
        # megatron-core keeps the numbers of all documents on every rank, 4 bytes each, but needs them only for building
        self.indices = np.empty(0, np.int32)
        self._masks = _open_masks(indexed_dataset, self)
        self._marks_documents = marks_documents(Path(indexed_dataset.path_prefix))

    def _build_document_sample_shuffle_indices(self) -> tuple[npt.NDArray[np.integer[Any]], ...]:
        folder = Path(self.config.path_to_cache)
        if not index_file(self, folder, "shuffle").is_file():
            write_indices(self, folder)
        return super()._build_document_sample_shuffle_indices()

    def __getitem__(self, idx: int | None) -> dict[str, torch.Tensor]:
        """Return one sample; `idx` is None for a padding sample, which has no loss."""
        sample: dict[str, torch.Tensor] = super().__getitem__(idx)
        if self._masks is not None and idx is not None:
            # tokens and document numbers; megatron-core 0.19 returns a third value
            mask = self._masks._query_document_sample_shuffle_indices(idx)[0]
            flags = torch.from_numpy(mask.astype(np.int64)).clamp(min=0)  # the padding id is negative
            sample["loss_mask"] = sample["loss_mask"] * (flags[1:] & HAS_LOSS)  # labels are shifted by one
            if self.config.reset_position_ids and self._marks_documents:
                sample["position_ids"] = _positions((flags[:-1] & BEGINS_DOCUMENT) > 0)
        return sample


def _positions(begins: torch.Tensor) -> torch.Tensor:
    """Return positions within documents, int64; `begins` marks their first tokens; both are (seq_length,)."""
    numbers = torch.arange(len(begins))
    return numbers - torch.where(begins, numbers, 0).cummax(0).values


def _open_masks(indexed_dataset: IndexedDataset, samples: GPTDataset) -> GPTDataset | None:
    """Open the same samples in the mask dataset; None if there is none.

    Raises:
        UserError: the documents of the mask dataset have other lengths.
    """
    prefix = f"{indexed_dataset.path_prefix}{LOSS_MASK_SUFFIX}"
    if not Path(f"{prefix}.idx").is_file():
        return None
    masks = IndexedDataset(prefix, multimodal=False)
    if not np.array_equal(masks.sequence_lengths, indexed_dataset.sequence_lengths):
        reason = f"its documents are not as long as those of {indexed_dataset.path_prefix}"
        raise UserError("data.blend", prefix, reason, "write both datasets again, from the same input")
    view = copy.copy(samples)  # shallow: the indices are shared
    view.dataset = masks
    return view
