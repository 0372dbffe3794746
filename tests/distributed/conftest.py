"""One worker pool a session, and a small learnable dataset of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import local_jobs
import numpy as np
import pytest
from local_runs import CRASH, SHARDED, TWO_LEVELS, Crashed
from pool import WorkerPool
from tiny import VOCAB_SIZE, losses, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.corpus.indexed_writer import IndexedWriter


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """Workers that import megatron-core once."""
    pool = WorkerPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An indexed dataset of noisy arithmetic progressions, and a tokenizer folder of the same vocabulary."""
    folder = tmp_path_factory.mktemp("dataset")
    vocabulary = {f"t{i}": i for i in range(VOCAB_SIZE - 2)} | {"<s>": VOCAB_SIZE - 2, "</s>": VOCAB_SIZE - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        str(folder / "tokenizer")
    )
    generator = np.random.default_rng(7)
    with IndexedWriter(folder / "documents", VOCAB_SIZE) as writer:
        for _ in range(400):
            start, step, length = generator.integers((0, 1, 20), (200, 9, 200))
            writer.add(((start + step * np.arange(length)) % 250).astype(np.uint16), np.array([length]))
    return {"prefix": str(folder / "documents"), "tokenizer": str(folder / "tokenizer")}


@pytest.fixture(scope="module")
def make_module_config(dataset: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`tiny_config` with the run folder in a folder that the tests of a module share."""
    folder = tmp_path_factory.mktemp("runs")
    return lambda run, **sections: tiny_config(dataset, folder / run, **sections)


@pytest.fixture
def make_config(dataset: dict[str, str], tmp_path: Path) -> Any:
    """`tiny_config` with the run folder in the test's own folder."""
    return lambda run, **sections: tiny_config(dataset, tmp_path / run, **sections)


@pytest.fixture(scope="session")
def assert_undisturbed(
    pool: WorkerPool, dataset: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], None]:
    """Holds losses and weights of a run of two ranks against one that waits while it saves, and that nothing befell."""
    saves = {"save_interval": 5, "async_save": False}
    undisturbed = tiny_config(dataset, tmp_path_factory.mktemp("undisturbed") / "run", checkpoint=saves)
    pool.run(2, jobs.pretrain, undisturbed)

    def weights_of(run: Path) -> Any:
        return pool.run(1, jobs.weight_hashes, str(iteration_folder(run, 20)))[0]

    expected = weights_of(Path(undisturbed["run"]))
    assert len(expected) > 10

    def compare(run: Path) -> None:
        assert losses(run) == losses(undisturbed["run"])
        assert weights_of(run) == expected

    return compare


@pytest.fixture(scope="module")
def crash(pool: WorkerPool, make_module_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    """A run that crashed between two shared checkpoints."""
    folder = tmp_path_factory.mktemp("crashed")
    rule = {**TWO_LEVELS, "local_folder": str(folder / "local")}
    config = make_module_config(
        "crashed", parallel=SHARDED, checkpoint=rule, training={"train_iters": CRASH, "eval_iters": 0}
    )
    assert pool.run(2, local_jobs.crashed, config, CRASH) == [True, True]
    return Crashed(config, folder / "backup")
