"""Mixtures: shares and budgets as samples, compared with megatron-core's draws from the written blend."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.datasets.blended_dataset import BlendedDataset

from megatron_ipt.config.loading import config_from, load_config
from megatron_ipt.config.mixture import MixtureConfig
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.indexed_writer import LOSS_MASK_SUFFIX, IndexedWriter
from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.data.blends import TokenIds, build_datasets
from megatron_ipt.errors import UserError
from megatron_ipt.mixing.document_split import count_tokens
from megatron_ipt.mixing.mixtures import apportion, plan_mixtures
from megatron_ipt.mixing.stage import build_mixtures, find_warnings
from megatron_ipt.parallel.groups import shutdown

VOCABULARY = 1000
VARIANTS = {
    "vanilla": {"raw": {"weight": 1}},
    "mix": {"raw": {"weight": 1}, "tuning": {"epochs": 4}},
    "instruct": {"augmented": {"weight": 1}, "tuning": {"epochs": 4}},
}


@pytest.fixture(scope="module")
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    shutdown()


def write_dataset(prefix: Path, documents: int, longest: int) -> Path:
    lengths = np.random.default_rng(documents).integers(0, longest, documents)
    with IndexedWriter(prefix, VOCABULARY) as writer:
        writer.add(np.arange(lengths.sum(), dtype=np.uint32) % VOCABULARY, lengths)
    return prefix


@pytest.fixture
def datasets(tmp_path: Path) -> dict[str, str]:
    sizes = {"raw": (900, 200), "augmented": (700, 230), "tuning": (60, 90), "general": (300, 120)}
    return {name: str(write_dataset(tmp_path / name, *size)) for name, size in sizes.items()}


def configure(datasets: dict[str, str], output: Path, **values: Any) -> MixtureConfig:
    given = {"datasets": datasets, "output": str(output), "seq_length": 32, "global_batch_size": 4, "split": "98,2,0"}
    return config_from(MixtureConfig, {**given, **values})


def drawn_samples(blend: Path, base: Path, cache: Path) -> tuple[PretrainConfig, np.ndarray]:
    """Count the samples that a run with both configuration files takes from each dataset."""
    run = load_config(PretrainConfig, [base, blend])
    samples = run.training.train_iters * run.training.global_batch_size
    train, _ = build_datasets(
        run.data,
        TokenIds(VOCABULARY, 2, {"tokenizer": "none"}),
        train_samples=samples,
        valid_samples=run.training.eval_iters * run.training.global_batch_size,
        seed=1,
        index_cache=str(cache),
        is_built_on_rank=lambda: True,
    )
    if not isinstance(train, BlendedDataset):
        return run, np.array([samples])
    return run, np.bincount(train.dataset_index[:samples], minlength=len(run.data.blend))


@pytest.mark.parametrize("variant", VARIANTS)
def test_megatron_core_draws_exactly_the_planned_samples(
    variant: str, datasets: dict[str, str], one_process: None, tmp_path: Path
) -> None:
    config = configure(datasets, tmp_path / "blends", variants=VARIANTS, tokens=123_457)
    counts = build_mixtures(config)
    base = tmp_path / "run.yaml"
    base.write_text(f"run: {tmp_path}/run\ndata: {{tokenizer: t, blend: [{{prefix: other}}]}}\n")
    run, drawn = drawn_samples(tmp_path / "blends" / f"blend.{variant}.yaml", base, tmp_path / "cache")
    draws = counts["variants"][variant]
    assert [Path(entry.prefix).name for entry in run.data.blend] == list(draws)
    assert drawn.tolist() == [draw["samples"] for draw in draws.values()]
    assert (run.data.seq_length, run.data.split) == (32, "98,2,0")
    assert run.training.train_iters * 4 * 32 == counts["tokens"] == 123_457 // 128 * 128


def test_many_weights_give_the_planned_samples(datasets: dict[str, str], one_process: None, tmp_path: Path) -> None:
    weights = {"raw": 0.613, "augmented": 0.29, "tuning": 0.007, "general": 0.09}
    variants = {"all": {name: {"weight": weight} for name, weight in weights.items()}}
    config = configure(datasets, tmp_path / "blends", variants=variants, tokens=1_000_000)
    draws = build_mixtures(config)["variants"]["all"]
    (tmp_path / "run.yaml").write_text("run: r\ndata: {tokenizer: t}\n")
    _, drawn = drawn_samples(tmp_path / "blends" / "blend.all.yaml", tmp_path / "run.yaml", tmp_path / "cache")
    assert drawn.tolist() == [draw["samples"] for draw in draws.values()]
    for name, weight in weights.items():
        assert draws[name]["tokens"] == pytest.approx(weight * 1_000_000, abs=2 * 32)


def test_variants_have_equal_tokens_and_the_configured_epochs() -> None:
    available = {"raw": 900_000, "augmented": 800_000, "tuning": 10_000}
    config = configure(dict.fromkeys(available, "p"), Path("o"), variants=VARIANTS, tokens=1_000_000)
    plans = plan_mixtures(config, available)
    assert {sum(draw.tokens for draw in draws.values()) for draws in plans.values()} == {1_000_000 // 128 * 128}
    for name in ("mix", "instruct"):
        assert plans[name]["tuning"].epochs == pytest.approx(4, abs=0.01)


def test_budget_is_the_total_of_a_variant_that_fixes_all_entries() -> None:
    available = {"raw": 900_000, "augmented": 800_000, "tuning": 10_000}
    names = dict.fromkeys(available, "p")
    fixed = {"augmented": {"epochs": 1}, "tuning": {"epochs": 4}}
    plans = plan_mixtures(configure(names, Path("o"), variants={**VARIANTS, "instruct": fixed}), available)
    assert plans["vanilla"]["raw"].tokens == 840_000 // 128 * 128
    anchored = {"all": {"raw": {"weight": 0.8, "epochs": 1}, "augmented": {"weight": 0.2}}}
    draws = plan_mixtures(configure(names, Path("o"), variants=anchored), available)["all"]
    assert draws["raw"].tokens == pytest.approx(900_000, abs=128)
    assert draws["augmented"].tokens == pytest.approx(225_000, abs=128)


def test_general_instructions_are_one_to_one_by_tokens() -> None:
    available = {"domain": 700_000, "general": 5_000_000}
    variants = {"instruct": {"domain": {"epochs": 2}, "general": {"equal_tokens_to": "domain"}}}
    draws = plan_mixtures(configure(dict.fromkeys(available, "p"), Path("o"), variants=variants), available)["instruct"]
    assert draws["domain"].tokens == draws["general"].tokens == pytest.approx(1_400_000, abs=128)
    assert draws["general"].epochs == pytest.approx(0.28, abs=0.001)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"variants": {"a": {"raw": {}, "augmented": {"weight": 1}}}, "tokens": 9999}, "variants.a.raw"),
        ({"variants": {"a": {"raw": {"weight": 1, "equal_tokens_to": "raw"}}}}, "variants.a.raw"),
        ({"variants": {"a": {"raw": {"weight": 0}}}, "tokens": 9999}, "variants.a.raw.weight"),
        ({"variants": {"a": {"raw": {"weight": math.nan}}}, "tokens": 9999}, "variants.a.raw.weight"),
        ({"variants": {"a": {"raw": {"epochs": math.inf}}}}, "variants.a.raw.epochs"),
        ({"variants": {"a": {"web": {"weight": 1}}}, "tokens": 9999}, "variants.a.web"),
        ({"variants": {"a": {"raw": {"equal_tokens_to": "raw"}}}}, "variants.a.raw.equal_tokens_to"),
        ({"variants": {"a": {"raw": {"weight": 1}}}}, "tokens"),
        ({"variants": {"a": {"raw": {"weight": 1}}}, "tokens": 100}, "tokens"),
        ({"variants": {"a": {"raw": {"epochs": 1}}}, "tokens": 9999}, "variants.a"),
        ({"variants": {"a": {"raw": {"epochs": 1}}, "b": {"raw": {"epochs": 2}}}}, "variants.b"),
        ({"variants": {"a": {"raw": {"weight": 1}, "augmented": {"epochs": 1}}}, "tokens": 9999}, "variants.a"),
        (
            {"variants": {"a": {"raw": {"weight": 1}, "augmented": {"weight": 1e-9}}}, "tokens": 9999},
            "variants.a.augmented",
        ),
        (
            {"variants": {"a": {"raw": {"weight": 1, "epochs": 1}, "augmented": {"weight": 1, "epochs": 1}}}},
            "variants.a",
        ),
        ({"variants": {"a/b": {"raw": {"weight": 1}}}, "tokens": 9999}, "variants"),
    ],
)
def test_contradictions_are_reported(values: dict[str, Any], field: str) -> None:
    available = {"raw": 90_000, "augmented": 80_000}
    with pytest.raises(UserError) as caught:
        plan_mixtures(configure(dict.fromkeys(available, "p"), Path("o"), **values), available)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_repeated_dataset_in_a_variant_is_refused(datasets: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    named = {**datasets, "again": f"{tmp_path}/elsewhere/raw"}
    apart = {"one": {"raw": {"weight": 1}}, "two": {"again": {"weight": 1}}}
    build_mixtures(configure(named, tmp_path / "apart", variants=apart, tokens=9_999))
    both = {"both": {"raw": {"weight": 1}, "again": {"weight": 1}, "tuning": {"weight": 1}}}
    with pytest.raises(UserError, match=r"the same dataset as variants\.both\.raw") as caught:
        build_mixtures(configure(named, tmp_path / "both", variants=both, tokens=9_999))
    assert [problem.field for problem in caught.value.problems] == ["variants.both.again"]
    assert not (tmp_path / "both").exists()


def test_tokens_match_megatron_cores_train_split(tmp_path: Path) -> None:
    lengths = np.array([5, 0, 7, 11, 3, 2, 9])
    with IndexedWriter(tmp_path / "data", VOCABULARY) as writer:
        writer.add(np.arange(lengths.sum(), dtype=np.uint32), lengths)
    assert count_tokens(tmp_path / "data", "70,30,0") == {"train": 5 + 7 + 11 + 3, "validation": 2 + 9}
    assert count_tokens(tmp_path / "data", "1") == {"train": 37}


def test_split_part_without_tokens_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "small", 20, 50)
    with pytest.raises(UserError, match="that has a token is assigned to validation"):
        count_tokens(tmp_path / "small", "99,1,0")


def test_many_epochs_and_loss_masks_give_warnings(datasets: dict[str, str], tmp_path: Path) -> None:
    write_dataset(Path(f"{datasets['tuning']}{LOSS_MASK_SUFFIX}"), 60, 90)
    variants = {"much": {"raw": {"weight": 1}, "tuning": {"epochs": 9}}, "enough": VARIANTS["mix"]}
    config = configure(datasets, tmp_path / "blends", variants=variants, tokens=100_000)
    warnings = find_warnings(config, build_mixtures(config))
    assert [warning.split(" ")[:2] for warning in warnings] == [["much:", "tuning"], ["tuning:", "only"]]


def test_second_run_is_skipped_and_changed_data_is_refused(datasets: dict[str, str], tmp_path: Path) -> None:
    config = configure(datasets, tmp_path / "blends", variants=VARIANTS, tokens=50_000)
    first = build_mixtures(config)
    blend = tmp_path / "blends" / "blend.mix.yaml"
    written = blend.stat().st_mtime_ns
    assert build_mixtures(config) == json.loads(json.dumps(first))
    assert blend.stat().st_mtime_ns == written
    manifest = read_manifest(tmp_path / "blends")
    assert manifest is not None
    assert sorted(Path(record.path).name for record in manifest.inputs) == ["augmented.idx", "raw.idx", "tuning.idx"]
    write_dataset(Path(datasets["raw"]), 901, 200)
    with pytest.raises(UserError, match=r"raw\.idx has changed since"):
        build_mixtures(config)


def test_apportioned_numbers_add_up() -> None:
    assert apportion({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    shares = dict(enumerate(np.random.default_rng(0).random(50).tolist()))
    counts = apportion({str(name): share for name, share in shares.items()}, 9973)
    assert sum(counts.values()) == 9973
