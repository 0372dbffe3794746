"""What TensorBoard shows of a run that was resumed: each iteration once, and the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_ipt.training.tensorboard_tracker import TensorBoardTracker


def test_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    for resumed, iterations in ((0, (2, 4, 6)), (4, (6, 8))):
        tracker = TensorBoardTracker(tmp_path, resumed, "training:\n  seed: 4711\n")
        for iteration in iterations:
            tracker.log(iteration, {"lm_loss": iteration + resumed / 10})
        tracker.close()
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    assert [(event.step, event.value) for event in shown.Scalars("lm_loss")] == [
        (2, 2.0),
        (4, 4.0),
        (6, pytest.approx(6.4)),
        (8, pytest.approx(8.4)),
    ]
    configs = [event.tensor_proto.string_val[0].decode() for event in shown.Tensors("config/text_summary")]
    assert configs and all("    training:\n      seed: 4711\n" in config for config in configs)


def test_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    place = tmp_path / "tensorboard"
    place.write_text("in the way")
    with pytest.raises(OSError, match=str(place)):
        TensorBoardTracker(place, 0, "")
