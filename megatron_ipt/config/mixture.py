"""What the building of a mixture is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megatron_ipt.config.settings import NotIdentity, Settings


class ShareConfig(Settings):
    """How much a variant takes of a dataset: one of the three, or a weight whose scale `epochs` fixes."""

    weight: float | None = Field(None, description="share of what the other entries leave of the budget, by tokens")
    epochs: float | None = Field(None, description="how often it is read")
    equal_tokens_to: str | None = Field(None, description="as many tokens as that entry of the variant")


class MixtureConfig(Settings):
    """Preprocessed datasets to blends that the trainer takes as they are, all with the same number of tokens."""

    datasets: dict[str, str] = Field(description="a name for each indexed dataset, and its prefix")
    variants: dict[str, dict[str, ShareConfig]] = Field(
        description="a name for each blend, and its share of each dataset"
    )
    output: Annotated[str, NotIdentity] = Field(description="folder of blend.VARIANT.yaml")
    tokens: int | None = Field(
        None,
        ge=1,
        description="budget of each variant; not set: what the variant comes to that fixes all of its entries",
    )
    seq_length: int = Field(2048, ge=1, description="tokens per sample")
    global_batch_size: int = Field(
        ge=1, description="samples per optimizer step; the budget is rounded down to whole steps"
    )
    split: str = Field(
        "99,1,0", description="shares of train, validation and test documents; the train part is counted"
    )
