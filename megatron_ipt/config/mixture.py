"""Settings for the mixture stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megatron_ipt.config.settings import NotIdentity, Settings


class ShareConfig(Settings):
    """Amount of a dataset in a variant: one of the three, or a weight with the epochs that fix the scale of weights."""

    weight: float | None = Field(
        None, gt=0, description="relative share, in tokens, of the budget that entries with epochs leave"
    )
    epochs: float | None = Field(None, gt=0, description="number of times the dataset is read")
    equal_tokens_to: str | None = Field(
        None, description="another entry of the variant; this dataset gets the same number of tokens"
    )


class MixtureConfig(Settings):
    """Blends of preprocessed datasets for the trainer, all with the same number of tokens."""

    datasets: dict[str, str] = Field(description="prefixes of the indexed datasets, by name")
    variants: dict[str, dict[str, ShareConfig]] = Field(
        min_length=1, description="blends by name, each with the shares of its datasets"
    )
    output: Annotated[str, NotIdentity] = Field(description="folder for the blend.VARIANT.yaml files")
    tokens: int | None = Field(
        None,
        ge=1,
        description="token budget of each variant; if not set, the total of a variant whose entries all fix an amount",
    )
    seq_length: int = Field(2048, ge=1, description="tokens per sample")
    global_batch_size: int = Field(
        ge=1, description="samples per optimizer step; the budget is rounded down to a whole number of steps"
    )
    split: str = Field(
        "99,1,0", description="shares of the training, validation and test documents; only training tokens are counted"
    )
