"""Sample indices are built on each filesystem that lacks them, and nowhere twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import index_jobs
import jobs
import pytest
import yaml
from pool import WorkerPool
from tiny import losses

pytestmark = pytest.mark.distributed

BRIEF = {"train_iters": 3, "eval_iters": 1}


def contents(cache: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in cache.iterdir()}


def written(cache: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in cache.iterdir()}


@pytest.fixture
def prefixes(dataset: dict[str, str], tmp_path: Path) -> tuple[str, str]:
    """The dataset, and a copy of it as another one."""
    for ending in (".bin", ".idx"):
        shutil.copy(f"{dataset['prefix']}{ending}", tmp_path / f"copy{ending}")
    return dataset["prefix"], str(tmp_path / "copy")


def test_nodes_without_a_shared_filesystem_build_their_own(
    pool: WorkerPool, make_config: Any, prefixes: tuple[str, str], tmp_path: Path
) -> None:
    blend = [{"prefix": prefixes[0], "weight": 2.0}, {"prefix": prefixes[1], "weight": 1.0}]
    config = make_config("nodes", training=BRIEF, data={"blend": blend})
    caches = [tmp_path / "node0" / "cache", tmp_path / "node1" / "cache"]
    pool.run(2, index_jobs.pretrain_on_own_node, config, [str(cache) for cache in caches])
    first, second = map(contents, caches)
    assert first == second
    assert sum(name.endswith("sample_index.npy") for name in first) > 3  # of both sources and of the blend
    alone = make_config("alone", training=BRIEF, data={"blend": blend})
    pool.run(1, jobs.pretrain, alone)
    assert contents(Path(alone["run"]) / "index_cache") == first
    assert losses(config["run"]) == pytest.approx(losses(alone["run"]), rel=1e-5)


def test_node_that_has_its_indices_builds_nothing(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    caches = [tmp_path / "node0", tmp_path / "node1"]
    names = [str(cache) for cache in caches]
    pool.run(2, index_jobs.pretrain_on_own_node, make_config("first", training=BRIEF), names)
    before = written(caches[0])
    for file in caches[1].iterdir():
        file.unlink()
    pool.run(2, index_jobs.pretrain_on_own_node, make_config("second", training=BRIEF), names)
    assert written(caches[0]) == before
    assert contents(caches[1]) == contents(caches[0])


def test_shared_cache_is_built_once(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    shared = [str(tmp_path / "shared")] * 2
    pool.run(2, index_jobs.pretrain_on_own_node, make_config("first", training=BRIEF), shared)
    before = written(tmp_path / "shared")
    assert not any(name.startswith(".") for name in before)
    pool.run(2, index_jobs.pretrain_on_own_node, make_config("second", training=BRIEF), shared)
    assert written(tmp_path / "shared") == before


def test_other_nodes_wait_for_the_first(pool: WorkerPool, tmp_path: Path) -> None:
    assert pool.run(2, index_jobs.count_builds, str(tmp_path / "shared")) == [1, 0]


def test_run_builds_nothing_that_was_built_ahead(
    pool: WorkerPool, make_config: Any, prefixes: tuple[str, str], tmp_path: Path
) -> None:
    blend = [{"prefix": prefixes[0], "epochs": 0.01}, {"prefix": prefixes[1], "weight": 1.0}]
    config = make_config("run", training=BRIEF, data={"blend": blend})
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    [(code, printed)] = pool.run(1, index_jobs.build_ahead, str(file))
    cache = Path(config["run"]) / "index_cache"
    before = written(cache)
    indices = sum(name.endswith(".npy") for name in before)
    assert (code, printed) == (0, f"{cache}: {indices} files with the sample indices of 3 steps\n")
    assert indices > 10
    pool.run(2, jobs.pretrain, config)
    assert written(cache) == before
    assert len(losses(config["run"])) == 3
    assert pool.run(1, index_jobs.build_ahead, str(file), "training.train_iters=4")[0][0] == 0
    assert len(written(cache)) > len(before)


def test_building_ahead_refuses_what_the_run_would_refuse(pool: WorkerPool, make_config: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(make_config("run", data={"blend": [{"prefix": "nothing"}]})), encoding="utf-8")
    assert pool.run(1, index_jobs.build_ahead, str(file), "model.num_layers=0") == [(2, "")]
    assert not (tmp_path / "run").exists()
