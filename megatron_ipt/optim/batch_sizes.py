"""How many samples each step takes, which follows from the samples consumed and from nothing else."""

from __future__ import annotations

from megatron.core.num_microbatches_calculator import (
    ConstantNumMicroBatchesCalculator,
    RampupBatchsizeNumMicroBatchesCalculator,
)

from megatron_ipt.config.pretrain import TrainingConfig


class BatchSizes:
    """The global batch size of a run: constant, or growing by `rampup_batch_size`, whatever the layout."""

    def __init__(self, training: TrainingConfig) -> None:
        # one sample at a time on one rank: megatron-core would divide the batch over ranks that may change in mid-run
        one_by_one = (training.global_batch_size, 1, 1, False, -1)
        rampup = training.rampup_batch_size
        self._calculator = (
            ConstantNumMicroBatchesCalculator(*one_by_one)
            if rampup is None
            else RampupBatchsizeNumMicroBatchesCalculator(*one_by_one, *rampup)
        )

    def __call__(self, consumed: int) -> int:
        """Samples of the step that begins after `consumed` samples."""
        self._calculator.update(consumed, consistency_check=True)
        return int(self._calculator.get_current_global_batch_size())

    def samples_after(self, iterations: int) -> int:
        """Samples consumed by the first `iterations` steps."""
        consumed = 0
        for _ in range(iterations):
            consumed += self(consumed)
        return consumed
