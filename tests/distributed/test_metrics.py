"""What a run tells of itself: every iteration once, whatever stopped it, in metrics.jsonl, TensorBoard and W&B."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import callback_jobs
import jobs
import numpy as np
import pytest
from pool import WorkerPool
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tiny import VOCAB_SIZE
from wandb.proto import wandb_internal_pb2

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, iteration_folder
from megatron_ipt.corpus.indexed_writer import LOSS_MASK_SUFFIX, IndexedWriter, read_document_lengths
from megatron_ipt.observability.metrics import read_metrics
from megatron_ipt.observability.sessions import read_sessions

pytestmark = pytest.mark.distributed

TRAINING = {"train_iters": 10, "log_interval": 4, "eval_interval": 6}
TRACKING = {"tensorboard": True, "wandb_mode": "offline"}
OF_THE_CLOCK = ("seconds", "tokens_per", "tflops", "memory", "data_wait", "goodput")


def rows_of(run: str, name: str) -> list[dict[str, Any]]:
    """The figures of a run that follow from its seed, of the lines that hold `name`."""
    rows = [row for row in read_metrics(Path(run) / "metrics.jsonl") if name in row]
    return [{key: row[key] for key in row if not any(word in key for word in OF_THE_CLOCK)} for row in rows]


def test_steps_that_are_rolled_back_are_not_counted(pool: WorkerPool, make_config: Any) -> None:
    """The attempt that starts at iteration 5 leaves out the batch of iteration 7; each step has 8 x 32 tokens."""
    training = {**TRAINING, "train_iters": 8, "eval_iters": 0}
    config = make_config("run", training=training, checkpoint={"save_interval": 5})
    assert pool.run(1, callback_jobs.pretrain_with_roll_back, config, 6) == [8]
    rows = rows_of(config["run"], "lm_loss")
    counted = [(row["iteration"], row["source_tokens/documents"], row["skipped_steps"]) for row in rows]
    assert counted == [(4, 4 * 256, 0), (8, 3 * 256, 1)]
    undisturbed = make_config("undisturbed", training=training)
    pool.run(1, jobs.pretrain, undisturbed)
    rates = [[row["learning_rate"] for row in rows_of(one["run"], "lm_loss")] for one in (config, undisturbed)]
    assert rates[0] == rates[1]


def test_a_run_stopped_within_an_interval_reports_as_the_undisturbed_one(pool: WorkerPool, make_config: Any) -> None:
    undisturbed = make_config("undisturbed", training=TRAINING)
    pool.run(1, jobs.pretrain, undisturbed)
    stopped = [
        make_config("stopped", training={**TRAINING, "exit_interval": interval}, tracking=TRACKING)
        for interval in (3, 7, 10)
    ]
    reached = [pool.run(1, jobs.pretrain, config)[0] for config in stopped]
    run = Path(stopped[0]["run"])

    assert reached == [3, 7, 10]
    assert rows_of(str(run), "lm_loss") == rows_of(undisturbed["run"], "lm_loss")
    assert [row["iteration"] for row in rows_of(undisturbed["run"], "lm_loss")] == [4, 8, 10]
    kinds = {"lm_loss", "validation_loss", "checkpoint_seconds"}
    assert all(len(kinds & row.keys()) == 1 for row in read_metrics(run / "metrics.jsonl"))

    times = read_sessions(run / "sessions.jsonl")
    assert times is not None
    assert [session.layout for session in times.sessions] == ["tensor 1 x pipeline 1 x data 1"] * 3
    productive = [session.productive_seconds for session in times.sessions]
    assert 0 < productive[0] < productive[1] < productive[2] < times.wall_seconds
    assert all(0 < row["goodput"] < 1 for row in read_metrics(run / "metrics.jsonl") if "lm_loss" in row)

    curves = EventAccumulator(str(run / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Tensors("lm_loss")] == [4, 8, 10]
    assert curves.Tensors("source_loss/documents")[-1].tensor_proto.float_val[0] == pytest.approx(
        rows_of(undisturbed["run"], "lm_loss")[-1]["lm_loss"]
    )

    run_id = (run / "wandb_run_id.txt").read_text(encoding="utf-8").strip()
    parts = sorted((run / "wandb").glob("offline-run-*"))
    assert len(parts) == 3
    assert all(part.name.endswith(f"-{run_id}") for part in parts)
    assert {file.name for file in (parts[-1] / "files").iterdir()} >= {"manifest.json", "run_config.yaml"}
    records = [list(wandb_records(part / f"run-{run_id}.wandb")) for part in parts]
    shown = [[record.history for record in part if record.WhichOneof("record_type") == "history"] for part in records]
    assert [[row.step.num for row in part if is_training(row)] for part in shown] == [[], [4], [8, 10]]
    told = next(record.run for record in records[-1] if record.WhichOneof("record_type") == "run")
    config = {update.key: json.loads(update.value_json) for update in told.config.update}
    assert config["training"]["global_batch_size"] == 8
    assert [step["stage"] for step in config["lineage"]] == ["pretrain"]
    assert any(name.endswith("documents.bin") for name in config["lineage"][0]["inputs"])


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_run_whose_tokens_bear_no_loss(pool: WorkerPool, dataset: dict[str, str], make_config: Any) -> None:
    """It goes on, and says that there is no loss, in JSON; its checkpoint too."""
    prefix = Path(dataset["prefix"]).with_name("masked")
    lengths = read_document_lengths(Path(dataset["prefix"]))
    for name, ids in ((prefix.name, 7), (f"{prefix.name}{LOSS_MASK_SUFFIX}", 0)):
        with IndexedWriter(prefix.with_name(name), VOCAB_SIZE) as writer:
            writer.add(np.full(int(lengths.sum()), ids, np.uint16), lengths)
    training = {"train_iters": 3, "eval_interval": 2}
    config = make_config("masked", data={"blend": [{"prefix": str(prefix)}]}, training=training)
    assert pool.run(1, jobs.pretrain, config) == [3]
    run = Path(config["run"])
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [(row["iteration"], row["lm_loss"], row["grad_norm"]) for row in rows if "lm_loss" in row] == [
        (iteration, None, 0.0) for iteration in (1, 2, 3)
    ]
    seal = json.loads((iteration_folder(run, 3) / CONTENTS_NAME).read_text(encoding="utf-8"), parse_constant=refuse)
    assert seal["validation_loss"] is None


def is_training(row: Any) -> bool:
    return any(item.nested_key == ["lm_loss"] for item in row.item)


def wandb_records(file: Path) -> Iterator[Any]:
    """What W&B has written for its server: blocks of 32 KiB of pieces, each with checksum, length and place."""
    data, position, pieces = file.read_bytes(), 7, b""
    while position < len(data):
        if (left := 32_768 - position % 32_768) < 7:
            position += left
            continue
        length, place = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        pieces += data[position + 7 : position + 7 + length]
        position += 7 + length
        if place in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(pieces)
            pieces = b""
