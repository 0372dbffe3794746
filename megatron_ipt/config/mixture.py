"""What the building of a mixture is told."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class ShareConfig:
    """How much a variant takes of a dataset: one of the three, or a weight whose scale `epochs` fixes."""

    weight: float | None = setting(None, "share of what the other entries leave of the budget, by tokens")
    epochs: float | None = setting(None, "how often it is read")
    equal_tokens_to: str | None = setting(None, "as many tokens as that entry of the variant")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Preprocessed datasets to blends that the trainer takes as they are, all with the same number of tokens."""

    datasets: dict[str, str] = setting(help="a name for each indexed dataset, and its prefix")
    variants: dict[str, dict[str, ShareConfig]] = setting(help="a name for each blend, and its share of each dataset")
    output: str = setting(help="folder of blend.VARIANT.yaml")
    tokens: int | None = setting(
        None, "budget of each variant; not set: what the variant comes to that fixes all of its entries"
    )
    seq_length: int = setting(2048, "tokens per sample")
    global_batch_size: int = setting(help="samples per optimizer step; the budget is rounded down to whole steps")
    split: str = setting("99,1,0", "shares of train, validation and test documents; the train part is counted")
