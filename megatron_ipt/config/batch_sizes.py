"""Number of samples of each step, which depends on the samples consumed and on nothing else."""

from __future__ import annotations

from megatron_ipt.config.pretrain import TrainingConfig


class BatchSizes:
    """The global batch size of a run: constant, or growing by `rampup_batch_size`, whatever the layout.

    The arithmetic is that of `RampupBatchsizeNumMicroBatchesCalculator`, which megatron-core has only up to 0.17.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self._largest = training.global_batch_size
        self._rampup = training.rampup_batch_size

    def __call__(self, consumed: int) -> int:
        """Samples of the step that starts after `consumed` samples."""
        if self._rampup is None:
            return self._largest
        first, increment, rampup_samples = self._rampup
        if consumed > rampup_samples:
            return self._largest
        # in floats, as in megatron-core: integers would move some steps, and older runs must resume with their batches
        samples_of_a_size = rampup_samples * increment / (self._largest - first)
        return first + increment * int(consumed / samples_of_a_size)

    def samples_after(self, iterations: int) -> int:
        """Samples consumed by the first `iterations` steps."""
        consumed = 0
        for _ in range(iterations):
            consumed += self(consumed)
        return consumed

    def iterations_within(self, samples: float) -> int:
        """The steps that consume no more than `samples`."""
        iterations, consumed = 0, 0
        while (consumed := consumed + self(consumed)) <= samples:
            iterations += 1
        return iterations
