"""A run that has crashed between two shared checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

SHARDED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
TWO_LEVELS = {"save_interval": 5, "local_interval": 1, "async_save": False}
CRASH = 8


class Crashed:
    """A run of two ranks that crashed after its eighth step, with a shared checkpoint of iteration 5 and local ones of
    6 and 7; `again` restores its folders for another test."""

    def __init__(self, config: dict[str, Any], backup: Path) -> None:
        self.config, self._backup = config, backup
        self.run, self.local = Path(config["run"]), Path(config["checkpoint"]["local_folder"])
        for folder in (self.run, self.local):
            shutil.copytree(folder, backup / folder.name)

    def again(self) -> Crashed:
        for folder in (self.run, self.local):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self._backup / folder.name, folder)
        return self

    def rank_folder(self, rank: int, iteration: int) -> Path:
        [history] = self.local.iterdir()
        return history / f"rank_{rank:05d}" / f"iteration_{iteration:07d}"

    def with_settings(self, **sections: dict[str, Any]) -> dict[str, Any]:
        return {**self.config, **{name: {**self.config.get(name, {}), **given} for name, given in sections.items()}}
