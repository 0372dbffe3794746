"""The losses of a blend's sources as transformers computes them, as a job for the worker pool."""

from __future__ import annotations

from typing import Any


def losses_of_sources(given: dict[str, Any], model_folder: str, samples: int, boundary: int) -> dict[str, float]:
    """Mean loss over the first `samples` train samples: of those with tokens below `boundary`, and of the others."""
    import torch
    from transformers import AutoModelForCausalLM

    from megatron_ipt.config.loading import config_from
    from megatron_ipt.config.pretrain import PretrainConfig
    from megatron_ipt.data.blends import TokenIds, build_datasets
    from megatron_ipt.parallel.groups import initialize, shutdown

    config = config_from(PretrainConfig, given)
    initialize(config.parallel, seed=1)
    try:
        train, _ = build_datasets(
            config.data,
            TokenIds(config.model.vocab_size, 0, {}),
            train_samples=samples,
            valid_samples=0,
            seed=config.training.seed,
            index_cache=f"{model_folder}/index_cache",
            is_built_on_rank=lambda: True,
        )
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        sums = {"low": 0.0, "high": 0.0}
        tokens = {"low": 0.0, "high": 0.0}
        for index in range(samples):
            sample = train[index]
            with torch.no_grad():
                logits = model(sample["tokens"][None]).logits[0]
            losses = torch.nn.functional.cross_entropy(logits, sample["labels"], reduction="none")
            source = "low" if int(sample["tokens"].min()) < boundary else "high"
            sums[source] += float((losses * sample["loss_mask"]).sum())
            tokens[source] += float(sample["loss_mask"].sum())
    finally:
        shutdown()
    return {source: sums[source] / tokens[source] for source in sums}
