"""The self-test: all checks in order, on every rank."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from megatron_ipt.config.pretrain import ParallelConfig, PretrainConfig
from megatron_ipt.config.selftest import SelftestConfig
from megatron_ipt.parallel.groups import Groups, initialize, shutdown
from megatron_ipt.selftest import checks
from megatron_ipt.selftest.bandwidth import check_network, check_node
from megatron_ipt.selftest.tiny_run import STOPPED_AT, run_config, write_data
from megatron_ipt.selftest.verdicts import FAIL, SKIPPED, Ranks, Verdict
from megatron_ipt.training.pretraining import pretrain

logger = logging.getLogger(__name__)

_NODE, _NETWORK = "bandwidth within nodes", "bandwidth between nodes"
_RUNS = ("reference", "stopped", "resumed", "fp8")


def has_failed(verdicts: Sequence[Verdict]) -> bool:
    """Return whether any check failed."""
    return any(verdict.status == FAIL for verdict in verdicts)


def run_selftest(config: SelftestConfig, report: Callable[[Verdict], None]) -> list[Verdict]:
    """Make all checks, on every rank.

    Args:
        config: the settings.
        report: called on rank 0 with each verdict as soon as it is known.

    Returns:
        The verdicts on all checks.
    """
    return _Selftest(config, report).run()


class _Selftest:
    def __init__(self, config: SelftestConfig, report: Callable[[Verdict], None]) -> None:
        self._config, self._report = config, report
        self._ranks = Ranks((_NODE, _NETWORK, *_RUNS))
        self._is_main = self._ranks.rank == 0
        self._token = self._ranks.share("token", lambda: uuid.uuid4().hex)
        self._folder = Path(config.output).absolute() / f"selftest_{self._token[:8]}"
        self._on_gpus = torch.cuda.is_available()
        self._verdicts: list[Verdict] = []

    def run(self) -> list[Verdict]:
        versions = self._ranks.share("versions", checks.describe_packages)
        self._judge("packages", partial(checks.check_packages, versions))
        self._judge("Transformer Engine", checks.check_engine)
        # before training, whose settings for determinism make NCCL slower
        self._judge(_NODE, partial(self._measure, _NODE, check_node, self._config.min_node_gbytes))
        self._judge(_NETWORK, partial(self._measure, _NETWORK, check_network, self._config.min_network_gbytes))
        if self._judge("shared folder", self._check_folder):
            self._check_training()
        else:
            self._skip("there is no shared folder", "save", "loss", "resume", "FP8")
        self._ranks.leave()
        if self._is_main:
            self._clean_up()
        return self._verdicts

    def _clean_up(self) -> None:
        if has_failed(self._verdicts):
            logger.warning("the files of the checks are kept in %s", self._folder)
        else:
            shutil.rmtree(self._folder)

    def _check_folder(self) -> str:
        if self._is_main:
            write_data(self._folder)
            checks.mark_ready(self._folder, self._token)
        return checks.check_folder(self._folder, self._token, self._ranks.rank)

    def _check_training(self) -> None:
        make = partial(run_config, self._folder, world_size=self._ranks.world_size, on_gpus=self._on_gpus)
        reference, resumed = make("reference"), make("resumed")
        stopped = make("resumed", training={"exit_interval": STOPPED_AT})
        fp8 = make("fp8", precision={"fp8": "hybrid"} if self._on_gpus else {})
        compare_loss = partial(checks.check_loss, reference, on_gpus=self._on_gpus)
        if not self._judge("save", partial(self._train, {"reference": reference}, checks.check_checkpoint)):
            self._skip("the reference run failed", "loss", "resume", "FP8")
            return
        self._judge("loss", partial(self._on_main, compare_loss))
        compare = partial(checks.compare_resumed, reference)
        self._judge("resume", partial(self._train, {"stopped": stopped, "resumed": resumed}, compare))
        compare = partial(checks.compare_fp8, reference)
        self._judge("FP8", partial(self._train, {"fp8": fp8}, compare, require=checks.require_fp8))

    def _train(
        self,
        runs: Mapping[str, PretrainConfig],
        check: Callable[[PretrainConfig], str],
        require: Callable[[], object] | None = None,
    ) -> str:
        """Train `runs` one after the other, and check the last on rank 0, which wrote its metrics."""
        if require is not None:
            require()
        for name, config in runs.items():
            self._ranks.prepare_process_group(name)
            pretrain(config)
        return self._on_main(partial(check, config))

    def _measure(self, name: str, check: Callable[[Groups, int, float | None], str], limit: float | None) -> str:
        self._ranks.prepare_process_group(name)
        try:
            return check(initialize(ParallelConfig(), seed=1), self._config.message_mib, limit)
        finally:
            shutdown()

    def _on_main(self, check: Callable[[], str]) -> str:
        return check() if self._is_main else ""

    def _judge(self, name: str, check: Callable[[], str]) -> bool:
        """Make a check and report the verdict; return whether it did not fail."""
        verdict = self._ranks.judge(name, check)
        self._add(verdict)
        return not has_failed([verdict])

    def _skip(self, reason: str, *names: str) -> None:
        for name in names:
            self._add(Verdict(name, SKIPPED, reason))

    def _add(self, verdict: Verdict) -> None:
        self._verdicts.append(verdict)
        if self._is_main:
            self._report(verdict)
