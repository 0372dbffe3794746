"""The number of samples of each step: a function of only the consumed samples, so that it is equal for all layouts."""

from __future__ import annotations

from megatron_ipt.config.pretrain import TrainingConfig


class BatchSizes:
    """The global batch size of a run: constant, or increasing according to `rampup_batch_size`.

    The arithmetic is that of megatron-core's `RampupBatchsizeNumMicroBatchesCalculator`, which versions after 0.17 no
    longer have.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self._largest = training.global_batch_size
        self._rampup = training.rampup_batch_size

    def __call__(self, consumed: int) -> int:
        """Return the batch size, in samples, of the step that starts after `consumed` samples."""
        if self._rampup is None:
            return self._largest
        first, increment, rampup_samples = self._rampup
        if consumed > rampup_samples:
            return self._largest
        # floating-point, as in megatron-core: integer arithmetic would shift some steps, and earlier runs must resume
        # with the batch sizes they had
        samples_of_a_size = rampup_samples * increment / (self._largest - first)
        return first + increment * int(consumed / samples_of_a_size)

    def samples_after(self, iterations: int) -> int:
        """Return the number of samples that the first `iterations` steps consume."""
        consumed = 0
        for _ in range(iterations):
            consumed += self(consumed)
        return consumed

    def iterations_within(self, samples: float) -> int:
        """Return the largest number of steps, from the start, that consume no more than `samples`."""
        iterations, consumed = 0, 0
        while (consumed := consumed + self(consumed)) <= samples:
            iterations += 1
        return iterations
