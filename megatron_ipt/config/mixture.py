"""Settings of the mixture stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megatron_ipt.config.settings import NotIdentity, Settings


class ShareConfig(Settings):
    """Amount of a dataset in a variant: one of the three, or a weight together with the epochs that fix its scale."""

    weight: float | None = Field(None, gt=0, description="share, in tokens, of the budget that the other entries leave")
    epochs: float | None = Field(None, gt=0, description="how often the dataset is read")
    equal_tokens_to: str | None = Field(None, description="name of an entry of the variant with as many tokens")


class MixtureConfig(Settings):
    """Blends of preprocessed datasets for the trainer, all with the same number of tokens."""

    datasets: dict[str, str] = Field(description="the prefixes of indexed datasets by name")
    variants: dict[str, dict[str, ShareConfig]] = Field(
        min_length=1, description="the blends by name, each with its share of every dataset"
    )
    output: Annotated[str, NotIdentity] = Field(description="folder for the blend.VARIANT.yaml files")
    tokens: int | None = Field(
        None,
        ge=1,
        description="budget of each variant; not set: the total of the variant that fixes all of its entries",
    )
    seq_length: int = Field(2048, ge=1, description="tokens per sample")
    global_batch_size: int = Field(
        ge=1, description="samples per optimizer step; the budget is rounded down to whole steps"
    )
    split: str = Field(
        "99,1,0", description="shares of train, validation and test documents; the train part is counted"
    )
