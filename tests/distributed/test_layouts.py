"""Every layout trains the same model: from one checkpoint, the losses of one rank.

On a machine with as many GPUs as a layout has ranks, `pytest -m gpu tests/distributed/test_layouts.py` runs the same
list over NCCL in bf16.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from pool import WorkerPool
from tiers import tiered
from tiny import VOCAB_SIZE, losses, tiny_config

from megatron_ipt.corpus.indexed_writer import LOSS_MASK_SUFFIX, IndexedWriter

pytestmark = pytest.mark.distributed

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
CP2 = {"context_parallel_size": 2}
FULL, SELECTIVE = {"recompute_granularity": "full"}, {"recompute_granularity": "selective"}
SHARDED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
LAYOUTS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "tp2": (2, "plain", TP2),
    "tp2 sequence parallel": (2, "plain", {**TP2, "sequence_parallel": True}),
    "pp2": (2, "plain", PP2),
    "pp2 uneven": (2, "plain", {**PP2, "num_layers_in_first_pipeline_stage": 3}),
    "pp2 interleaved": (2, "plain", {**PP2, "virtual_pipeline_model_parallel_size": 2}),
    "cp2": (2, "plain", CP2),
    "cp2 masked": (2, "masked", CP2),
    "cp2 window": (2, "window", CP2),
    "dp2": (2, "plain", {}),
    "dp2 overlap": (2, "plain", {"overlap_grad_reduce": True}),
    "dp2 distributed optimizer": (2, "plain", SHARDED),
    "tp2 masked": (2, "masked", TP2),
    "pp2 masked": (2, "masked", PP2),
    "dp2 masked": (2, "masked", {}),
    "tp2 packed": (2, "packed", TP2),
    "pp2 packed": (2, "packed", PP2),
    "dp2 packed": (2, "packed", {}),
    "cp2 packed": (2, "packed", CP2),
    "cp2 packed window": (2, "packed window", CP2),
    "dp2 packed window": (2, "packed window", {}),
    "tp2 z-loss": (2, "z-loss", TP2),
    "recompute": (1, "plain", {"recompute_granularity": "full"}),
    "recompute tp2 sequence parallel": (
        2,
        "plain",
        {**TP2, "sequence_parallel": True, "recompute_granularity": "full"},
    ),
    "recompute attention pp2": (2, "plain", {**PP2, "recompute_granularity": "selective"}),
    "recompute units of two": (1, "plain", {**FULL, "recompute_num_layers": 2}),
    "recompute block pp2": (2, "plain", {**PP2, **FULL, "recompute_method": "block", "recompute_num_layers": 1}),
    "recompute modules": (1, "plain", {**SELECTIVE, "recompute_modules": ["core_attn", "mlp"]}),
    "dp2 small buckets": (2, "plain", {**SHARDED, "bucket_size": 5000}),
    "tp2 pp2": (4, "plain", {**TP2, **PP2}),
    "cp2 dp2 distributed optimizer": (4, "masked", {**CP2, **SHARDED}),
    "tp2 padded": (2, "padded", TP2),
    "tp2 pp2 padded tied": (4, "padded tied", {**TP2, **PP2, "make_vocab_size_divisible_by": 64}),
    "tp2 qwen2": (2, "qwen2", TP2),
    "tp2 qwen3": (2, "qwen3", TP2),
    "tp2 qwen3 sequence parallel": (2, "qwen3", {**TP2, "sequence_parallel": True}),
    "pp2 smollm3": (2, "smollm3", PP2),
    "cp2 smollm3": (2, "smollm3", CP2),
    "tp2 olmo2": (2, "olmo2", TP2),
    "tp2 olmo2 sequence parallel": (2, "olmo2", {**TP2, "sequence_parallel": True}),
    "pp2 olmo2 interleaved": (2, "olmo2", {**PP2, "virtual_pipeline_model_parallel_size": 2}),
    "recompute tp2 olmo2": (2, "olmo2", {**TP2, "recompute_granularity": "full"}),
    "dp2 olmo2 distributed optimizer": (2, "olmo2", SHARDED),
    "cp2 olmo2": (2, "olmo2", CP2),
    "tp2 pp2 olmo2": (4, "olmo2", {**TP2, **PP2}),
    "tp2 cp2 sequence parallel": (4, "plain", {**TP2, **CP2, "sequence_parallel": True}),
    "tp2 cp2 packed sequence parallel": (4, "packed", {**TP2, **CP2, "sequence_parallel": True}),
    "pp2 cp2 packed": (4, "packed", {**PP2, **CP2}),
    "recompute cp2 packed": (2, "packed", {**CP2, **FULL}),
}
YARN = {"rope_type": "yarn", "rope_factor": 4.0, "rope_original_max_position_embeddings": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {},
    "padded": {"vocab_size": VOCAB_SIZE + 1},
    "padded tied": {"vocab_size": VOCAB_SIZE + 1, "untie_embeddings_and_output_weights": False},
    "qwen2": {"family": "qwen2"},
    "qwen3": {"family": "qwen3"},
    "smollm3": {"family": "smollm3", "no_rope_freq": 3, **YARN},
    "olmo2": {"family": "olmo2"},
}
"""Models; all kinds of data but those with these names are read by the first."""
OFTEN = (
    "tp2 sequence parallel",
    "tp2 padded",
    "tp2 qwen3",
    "tp2 olmo2 sequence parallel",
    "pp2 uneven",
    "pp2 interleaved",
    "recompute block pp2",
    "recompute modules",
    "cp2",
    "dp2 distributed optimizer",
    "dp2 packed",
    "cp2 packed window",
    "tp2 z-loss",
    "tp2 pp2",
)
BF16 = {"precision": {"bf16": True}}
TRAIN_ITERS = 10


@pytest.fixture(scope="module")
def make_seed(pool: WorkerPool, dataset: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a checkpoint of initial weights of a model, once: one step with a learning rate of zero."""

    @cache
    def make(family: str) -> str:
        run = tmp_path_factory.mktemp("seed") / "run"
        rates = {"optimizer": {"lr": 0.0, "min_lr": 0.0}, "schedule": {"lr_warmup_iters": 0}}
        config = tiny_config(dataset, run, model=FAMILIES[family], training={"train_iters": 1}, **rates)
        pool.run(1, jobs.pretrain, config)
        return str(run)

    return make


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings by kind of data: short documents that end in EOS, half of whose tokens bear loss; attention within."""
    folder = tmp_path_factory.mktemp("kinds")
    generator = np.random.default_rng(5)
    documents = []
    for length in generator.integers(5, 40, size=400):
        start, step = generator.integers((0, 1), (200, 9))
        documents.append(np.append((start + step * np.arange(length)) % 250, VOCAB_SIZE - 1))
    write(folder / "documents", documents)
    write(folder / "masked", documents)
    write(folder / f"masked{LOSS_MASK_SUFFIX}", [generator.integers(0, 2, ids.size) for ids in documents])
    short = {"blend": [{"prefix": str(folder / "documents")}]}
    packed = {"data": {**short, "reset_attention_mask": True, "reset_position_ids": True}}
    window = {"model": {"sliding_window": 12}, "checkpoint": {}}  # of its own seed, which is any layout's here
    return {
        **{name: {"model": values} for name, values in FAMILIES.items()},
        "plain": {},
        "window": window,
        "masked": {"data": {"blend": [{"prefix": str(folder / "masked")}]}},
        "short": {"data": short},
        "z-loss": {"training": {"z_loss_coeff": 0.1}},
        "packed": packed,
        "packed window": {**packed, **window},
    }


def write(prefix: Path, documents: list[Any]) -> None:
    with IndexedWriter(prefix, VOCAB_SIZE) as writer:
        for ids in documents:
            writer.add(ids.astype(np.uint16), np.array([ids.size]))


@pytest.fixture(scope="module")
def train(pool: WorkerPool, make_module_config: Any, make_seed: Any, kinds: dict[str, dict[str, Any]]) -> Any:
    """The losses of a run from the seed on some ranks; on one rank each kind is run once."""
    on_one_rank: dict[tuple[str, bool], list[float]] = {}

    def run(world_size: int, kind: str, parallel: dict[str, Any], **sections: Any) -> list[float]:
        name = f"{world_size} {kind} {parallel} {sections}".translate(str.maketrans("", "", "{}':,"))
        seed = make_seed(kind if kind in FAMILIES else "mistral")
        settings = {"checkpoint": {"pretrained_checkpoint": seed}, **kinds[kind], **sections}
        settings["training"] = {"train_iters": TRAIN_ITERS, **settings.get("training", {})}
        config = make_module_config(name, parallel=parallel, **settings)
        pool.run(world_size, jobs.pretrain, config)
        return losses(config["run"])

    def run_once(world_size: int, kind: str, parallel: dict[str, Any], **sections: Any) -> list[float]:
        if world_size > 1 or parallel:
            return run(world_size, kind, parallel, **sections)
        if (key := (kind, bool(sections))) not in on_one_rank:
            on_one_rank[key] = run(1, kind, {}, **sections)
        return on_one_rank[key]

    return run_once


def test_one_rank_learns(train: Any) -> None:
    plain = train(1, "plain", {})
    assert len(plain) == TRAIN_ITERS
    assert plain[-1] < plain[0] - 0.1


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("masked", "short"),
        ("packed", "short"),
        ("window", "plain"),
        ("packed window", "packed"),
        ("packed window", "window"),
        ("z-loss", "plain"),
    ],
)
def test_kinds_give_losses_of_their_own(kind: str, other: str, train: Any) -> None:
    assert train(1, kind, {})[-1] != pytest.approx(train(1, other, {})[-1], rel=1e-4)


@pytest.mark.parametrize("layout", tiered(LAYOUTS, OFTEN))
def test_layout_gives_the_losses_of_one_rank(layout: str, train: Any) -> None:
    world_size, kind, parallel = LAYOUTS[layout]
    assert train(world_size, kind, parallel) == pytest.approx(train(1, kind, {}), rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_gives_the_losses_of_one_gpu(layout: str, train: Any) -> None:
    world_size, kind, parallel = LAYOUTS[layout]
    if torch.cuda.device_count() < world_size:
        pytest.skip(f"{world_size} GPUs are needed, {torch.cuda.device_count()} are here")
    assert train(world_size, kind, parallel, **BF16) == pytest.approx(train(1, kind, {}, **BF16), rel=1e-2)
