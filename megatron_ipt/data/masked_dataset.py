"""megatron-core's GPT dataset with the loss on chosen tokens, told by a second dataset PREFIX_loss_mask."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_ipt.data.indexed_writer import LOSS_MASK_SUFFIX
from megatron_ipt.data.sample_indices import index_file, write_indices
from megatron_ipt.errors import UserError


class MaskedGPTDataset(GPTDataset):
    """A GPT dataset; where PREFIX_loss_mask lies beside PREFIX, a sample's loss_mask is the mask of its labels.

    The mask dataset holds 0 or 1 for each token of each document.
    """

    def __init__(self, indexed_dataset: IndexedDataset, *arguments: Any, **settings: Any) -> None:
        super().__init__(indexed_dataset, *arguments, **settings)
        self.indices: Any = np.empty(0, np.int32)  # 4 bytes a document on every rank, needed to build alone
        self._masks = _open_masks(indexed_dataset, self)

    def _build_document_sample_shuffle_indices(self) -> Any:
        folder = Path(self.config.path_to_cache)
        if not index_file(self, folder, "shuffle").is_file():
            write_indices(self, folder)
        return super()._build_document_sample_shuffle_indices()

    def __getitem__(self, idx: int | None) -> dict[str, torch.Tensor]:
        """One sample; `idx` is None for a padding sample, which carries no loss."""
        sample: dict[str, torch.Tensor] = super().__getitem__(idx)
        if self._masks is not None and idx is not None:
            mask = self._masks._query_document_sample_shuffle_indices(idx)[0]  # megatron-core 0.19 adds a third value
            label_mask = torch.from_numpy(mask[1:] > 0)  # padding is negative
            sample["loss_mask"] = sample["loss_mask"] * label_mask
        return sample


def _open_masks(indexed_dataset: IndexedDataset, samples: GPTDataset) -> GPTDataset | None:
    """The same samples, read from the mask dataset; None where there is none."""
    prefix = f"{indexed_dataset.path_prefix}{LOSS_MASK_SUFFIX}"
    if not Path(f"{prefix}.idx").is_file():
        return None
    masks = IndexedDataset(prefix, multimodal=False)
    if not np.array_equal(masks.sequence_lengths, indexed_dataset.sequence_lengths):
        reason = f"its documents are not as long as those of {indexed_dataset.path_prefix}"
        raise UserError("data.blend", prefix, reason, "make both again together")
    view = copy.copy(samples)
    view.dataset = masks
    return view
