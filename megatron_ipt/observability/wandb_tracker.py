"""Curves for Weights & Biases, online or offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from megatron_ipt.errors import UserError


class WandbTracker:
    """One W&B run for one training run: its id follows from the run folder, so that a resumed run goes on in it."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: str,
        project: str,
        name: str,
        run_id: str,
        config: Mapping[str, Any],
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "tracking.wandb_mode", mode, "wandb is not installed", "pip install 'megatron-ipt[wandb]'"
            ) from error
        self._run = wandb.init(
            dir=str(folder),
            mode=cast("Literal['online', 'offline']", mode),
            project=project,
            name=name,
            id=run_id,
            resume="allow",
            config=dict(config),
            settings=wandb.Settings(silent=True),
        )

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        """All figures of one iteration."""
        self._run.log(dict(figures), step=iteration)

    def close(self) -> None:
        """End this process's part of the run."""
        self._run.finish()
