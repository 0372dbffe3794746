"""Files that are damaged, missing or not to be trusted: passed over, or refused in one screen."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_hooks
import jobs
import pytest
from pool import WorkerPool
from ranks import Ranks
from strangers import Payload, largest_shard, pickle_file, pickle_tensor, reseal
from tiers import tiered
from tiny import losses

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, checkpoints_folder, iteration_folder, saved_iterations
from megatron_ipt.corpus.manifest import MANIFEST_NAME

pytestmark = pytest.mark.distributed

POINTER = "latest_checkpointed_iteration.txt"
SAVES = {"checkpoint": {"save_interval": 5}}


@pytest.fixture(scope="module")
def stopped(pool: WorkerPool, make_module_config: Any) -> Path:
    """A run that has stopped after 15 of 20 iterations, with a checkpoint every 5."""
    config = make_module_config("stopped", training={"exit_interval": 15}, **SAVES)
    pool.run(1, jobs.pretrain, config)
    assert saved_iterations(Path(config["run"])) == [15, 10, 5]
    return Path(config["run"])


@pytest.fixture(scope="module")
def undisturbed(pool: WorkerPool, stopped: Path, make_module_config: Any) -> Path:
    """The same, gone on with."""
    config = make_module_config("undisturbed", **SAVES)
    shutil.copytree(stopped, config["run"])
    pool.run(1, jobs.pretrain, config)
    return Path(config["run"])


def append(file: Path, content: bytes) -> None:
    with file.open("ab") as handle:
        handle.write(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_bit(file: Path) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


def tear(file: Path) -> None:
    """What was not yet on the disk is there as zeros."""
    append(file, b'{"iteration": 16, "lm_l' + bytes(100) + b'\n{"iteration": 17}\n')


def skip_samples(checkpoint: Path) -> None:
    """Still valid JSON, but it would leave out a batch."""
    file = checkpoint / CONTENTS_NAME
    values = json.loads(file.read_text(encoding="utf-8"))
    values["consumed_train_samples"] += 16
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


DAMAGES: dict[str, tuple[Callable[[Path], object], int]] = {
    "truncated shard": (lambda newest: truncate(largest_shard(newest)), 10),
    "flipped bit in a shard": (lambda newest: flip_bit(largest_shard(newest)), 10),
    "missing shard": (lambda newest: largest_shard(newest).unlink(), 10),
    "damaged .metadata": (lambda newest: flip_bit(newest / ".metadata"), 10),
    "missing common.pt": (lambda newest: (newest / "common.pt").unlink(), 10),
    "truncated checkpoint.json": (lambda newest: truncate(newest / CONTENTS_NAME), 10),
    "changed checkpoint.json": (skip_samples, 10),
    "missing checkpoint.json": (lambda newest: (newest / CONTENTS_NAME).unlink(), 10),
    "damaged manifest.json": (lambda newest: truncate(newest / MANIFEST_NAME), 10),
    "empty folder": (lambda newest: [file.unlink() for file in newest.iterdir()], 10),
    "empty pointer": (lambda newest: (newest.parent / POINTER).write_text(""), 15),
    "missing pointer": (lambda newest: (newest.parent / POINTER).unlink(), 15),
    "pointer to a folder that is gone": (lambda newest: shutil.rmtree(newest), 10),
    "pointer to an older checkpoint": (lambda newest: (newest.parent / POINTER).write_text("10\n"), 10),
    "two checkpoints damaged": (
        lambda newest: [
            flip_bit(largest_shard(newest)),
            truncate(largest_shard(iteration_folder(newest.parents[1], 10))),
        ],
        5,
    ),
    "metrics.jsonl torn by a loss of power": (lambda newest: tear(newest.parents[1] / "metrics.jsonl"), 15),
    "dangling link where a checkpoint goes": (
        lambda newest: iteration_folder(newest.parents[1], 20).symlink_to("gone"),
        15,
    ),
    "metrics.jsonl with a line that is no row": (
        lambda newest: append(newest.parents[1] / "metrics.jsonl", b"[1, 2]\n"),
        15,
    ),
    "missing manifest.json of the run": (lambda newest: (newest.parents[1] / MANIFEST_NAME).unlink(), 15),
    "left-over partial folder": (
        lambda newest: shutil.copytree(newest, newest.with_name(".iter_0000020.x.partial")),
        15,
    ),
}
OFTEN = (
    "dangling link where a checkpoint goes",
    "missing manifest.json of the run",
    "flipped bit in a shard",
    "changed checkpoint.json",
    "missing pointer",
    "two checkpoints damaged",
)


def test_checkpoint_of_an_earlier_version(stopped: Path, make_config: Any) -> None:
    """Its seal holds the losses of the last steps, and there are no states of callbacks; a spike is still found."""
    faults = {"on_loss_spike": "stop", "loss_spike_window": 5}
    config = make_config("run", faults=faults, **SAVES)
    shutil.copytree(stopped, config["run"])
    checkpoint = iteration_folder(Path(config["run"]), 15)
    (checkpoint / "callbacks.json").unlink()
    (checkpoint / MANIFEST_NAME).unlink()
    reseal(checkpoint)
    seal = json.loads((checkpoint / CONTENTS_NAME).read_text(encoding="utf-8"))
    seal["recent_losses"] = losses(config["run"])[-5:]
    (checkpoint / CONTENTS_NAME).write_text(json.dumps(seal), encoding="utf-8")
    ranks = Ranks(1, config, prepare=fault_hooks.change_losses, arguments=(1, 0, fault_hooks.to_spike))
    assert ranks.wait() == [2]
    assert "resuming from iteration 15" in ranks.output()
    assert "the next report covers the steps after iteration 15" in ranks.output()
    assert "iteration 16: the loss is" in ranks.output()


@pytest.mark.parametrize("damage", tiered(DAMAGES, OFTEN))
def test_run_resumes_from_the_newest_intact_checkpoint(
    damage: str, pool: WorkerPool, stopped: Path, undisturbed: Path, make_config: Any
) -> None:
    strike, expected = DAMAGES[damage]
    config = make_config("run", **SAVES)
    run = Path(config["run"])
    shutil.copytree(stopped, run)
    strike(iteration_folder(run, 15))
    assert pool.run(1, jobs.resumed_iteration, config)[0] == expected
    assert losses(run) == losses(undisturbed)
    assert not list(checkpoints_folder(run).glob(".*.partial"))


def test_checkpoints_beyond_the_one_resumed_from_are_set_aside(
    pool: WorkerPool, stopped: Path, make_config: Any
) -> None:
    """The newest is damaged, the one that the run resumes from is a link, and one only is to be kept."""
    config = make_config("run", checkpoint={"save_interval": 4, "keep_last": 1})
    run = Path(config["run"])
    shutil.copytree(stopped, run)
    flip_bit(largest_shard(iteration_folder(run, 15)))
    cold = iteration_folder(run, 10).rename(run / "cold")
    iteration_folder(run, 10).symlink_to(cold)
    assert pool.run(1, jobs.resumed_iteration, config) == [10]
    assert saved_iterations(run) == [20, 10]
    assert largest_shard(checkpoints_folder(run) / "abandoned_iter_0000015").is_file()
    assert largest_shard(cold).is_file()


def test_without_a_whole_checkpoint_the_run_does_not_begin_anew(
    pool: WorkerPool, stopped: Path, make_config: Any
) -> None:
    config = make_config("run", **SAVES)
    shutil.copytree(stopped, config["run"])
    for iteration in (5, 10, 15):
        flip_bit(largest_shard(iteration_folder(Path(config["run"]), iteration)))
    assert "none of them is intact" in pool.run(1, jobs.refused, config)[0]
    assert saved_iterations(Path(config["run"])) == [15, 10, 5]


def tag_yaml(file: Path, payload: Payload) -> None:
    file.write_text(
        f"run: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{payload.proof}]]"
    )


STRANGERS: dict[str, tuple[str, Callable[[Path, Payload], None]]] = {
    ".metadata": (".metadata", pickle_file),
    "common.pt": ("common.pt", pickle_file),
    "metadata.json": ("metadata.json", pickle_file),
    "shard": ("*.distcp", pickle_file),
    "tensor in a shard": ("*.distcp", pickle_tensor),
    "checkpoint.json": (CONTENTS_NAME, pickle_file),
    "run_config.yaml": ("run_config.yaml", tag_yaml),
    "callbacks.json": ("callbacks.json", pickle_file),
    "pointer": (f"../{POINTER}", pickle_file),
    "run_config.yaml of the run": ("../../run_config.yaml", tag_yaml),
    "metrics.jsonl": ("../../metrics.jsonl", pickle_file),
}


@pytest.mark.parametrize("name", tiered(STRANGERS, ("common.pt", "tensor in a shard", "run_config.yaml")))
def test_checkpoint_of_a_stranger_runs_no_code(
    name: str, pool: WorkerPool, stopped: Path, make_config: Any, tmp_path: Path
) -> None:
    """Every file in turn is a pickle that would run, and the seal is made to fit it."""
    config = make_config("run", **SAVES)
    run, proof = Path(config["run"]), tmp_path / "proof"
    shutil.copytree(stopped, run)
    for iteration in (5, 10):
        shutil.rmtree(iteration_folder(run, iteration))
    checkpoint = iteration_folder(run, 15)
    pattern, put_into = STRANGERS[name]
    file = largest_shard(checkpoint) if pattern == "*.distcp" else checkpoint / pattern
    put_into(file, Payload(proof))
    if name != CONTENTS_NAME:
        reseal(checkpoint)
    (checkpoint / MANIFEST_NAME).unlink()
    pool.run(1, jobs.attempt, config)
    assert not proof.exists()


def test_checkpoint_of_another_model_is_refused(pool: WorkerPool, stopped: Path, make_config: Any) -> None:
    config = make_config("run", model={"hidden_size": 128}, **SAVES)
    shutil.copytree(stopped, config["run"])
    assert "hidden_size" in pool.run(1, jobs.refused, config)[0]


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), truncate], ids=["vanished", "truncated"])
@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_damaged_data_are_refused_before_the_start(
    ending: str,
    damage: Callable[[Path], None],
    pool: WorkerPool,
    stopped: Path,
    dataset: dict[str, str],
    make_config: Any,
    tmp_path: Path,
) -> None:
    shutil.copytree(Path(dataset["prefix"]).parent, tmp_path / "data")
    config = make_config("run", data={"blend": [{"prefix": str(tmp_path / "data" / "documents")}]}, **SAVES)
    damage(tmp_path / "data" / f"documents{ending}")
    assert f"documents{ending}" in pool.run(1, jobs.refused, config)[0]


def test_data_that_vanish_under_a_run_do_not_stop_it(dataset: dict[str, str], make_config: Any, tmp_path: Path) -> None:
    """An open file stays as long as it is read; the next start refuses."""
    shutil.copytree(Path(dataset["prefix"]).parent, tmp_path / "data")
    config = make_config("run", data={"blend": [{"prefix": str(tmp_path / "data" / "documents")}]}, **SAVES)
    ranks = Ranks(1, config)
    ranks.wait_for_iteration(2)
    (tmp_path / "data" / "documents.bin").unlink()
    assert ranks.wait() == [0]
    assert Ranks(1, config).wait() == [2]


def test_data_that_shrink_under_a_run_leave_its_checkpoints(
    pool: WorkerPool, dataset: dict[str, str], make_config: Any, tmp_path: Path
) -> None:
    """They are mapped into memory: who reads beyond their end dies of SIGBUS."""
    shutil.copytree(Path(dataset["prefix"]).parent, tmp_path / "data")
    file = tmp_path / "data" / "documents.bin"
    config = make_config(
        "run",
        data={"blend": [{"prefix": str(file.with_suffix(""))}]},
        training={"train_iters": 1000},
        checkpoint={"save_interval": 5, "async_save": False},
    )
    ranks = Ranks(1, config)
    ranks.wait_for_iteration(6)
    os.truncate(file, 0)
    assert ranks.wait() == [-signal.SIGBUS]
    shutil.copyfile(f"{dataset['prefix']}.bin", file)
    (last, *_) = saved_iterations(ranks.run)
    assert pool.run(1, jobs.resumed_iteration, {**config, "training": {**config["training"], "exit_interval": 5}}) == [
        last
    ]


@pytest.mark.parametrize("name", ["", "tensorboard"])
def test_folders_that_cannot_be_written(name: str, stopped: Path, make_config: Any) -> None:
    """A file stands in the place of the folder, so that not even root can write there."""
    config = make_config("run", tracking={"tensorboard": True}, **SAVES)
    place = Path(config["run"]) / name
    if name:
        shutil.copytree(stopped, config["run"])
    place.write_text("in the way")
    ranks = Ranks(1, config)
    assert ranks.wait() == [2]
    assert "Traceback" not in ranks.output()
    assert str(place) in ranks.output()


def test_wandb_out_of_reach_does_not_stop_the_run(make_config: Any) -> None:
    ranks = Ranks(1, make_config("run", tracking={"wandb_mode": "online"}), prepare=fault_hooks.hide_wandb)
    assert ranks.wait(200.0) == [0]
    assert "kept offline" in ranks.output()
    assert len(losses(ranks.run)) == 20
