"""Metrics for Weights & Biases, online or offline."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megatron_ipt.errors import UserError

RUN_ID_NAME = "wandb_run_id.txt"
_INIT_TIMEOUT_SECONDS = 60.0
_FINISH_TIMEOUT_SECONDS = 300.0

logger = logging.getLogger(__name__)


def check_wandb(mode: str) -> None:
    """Check that W&B can be used in `mode` on this machine.

    Raises:
        UserError: wandb is not installed, or `mode` is online and there is no API key.
    """
    try:
        import wandb
    except ImportError as error:
        remedy = "pip install 'megatron-ipt[wandb]'"
        raise UserError("tracking.wandb_mode", mode, "wandb is not installed", remedy) from error
    if mode == "online" and not wandb.api.api_key:
        reason = "not logged in to W&B on this machine"
        raise UserError("tracking.wandb_mode", mode, reason, "set WANDB_API_KEY, run `wandb login`, or use offline")


class WandbTracker:
    """Logs to one W&B run per training run; its id is kept in the run folder, so that a resumed run continues it.

    If the server cannot be reached, the run is kept offline, for `wandb sync`. Source code, git remote and terminal
    output are not recorded.
    """

    def __init__(
        self, run: Path, *, mode: str, project: str, name: str, config: Mapping[str, Any], files: Sequence[Path]
    ) -> None:
        """Start or continue the W&B run; `files` of the run folder are uploaded when the run ends."""
        import wandb

        start = partial(_open_run, run, project=project, name=name, config=dict(config))
        try:
            self._run = start(mode)
        except wandb.Error as error:
            logger.warning("W&B cannot be reached; the run is kept offline in %s/wandb: %s", run, error)
            wandb.teardown(exit_code=1)  # wandb's service process (0.31) still holds the id of the failed run
            self._run = start("offline")
        for file in files:
            self._run.save(str(file), base_path=str(run), policy="end")

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one iteration; W&B ignores iterations that were already logged before a resume."""
        self._run.log(dict(metrics), step=iteration)

    def close(self) -> None:
        """End this process's part of the run."""
        self._run.finish()


def add_scores(run: Path, *, mode: str, project: str, rows: Sequence[Mapping[str, float]]) -> None:
    """Add rows of scores, each with its `iteration`, to the W&B run of a training run that has ended.

    W&B accepts steps in ascending order only, and the run is already past these, so the scores have their own x-axis.
    """
    import wandb

    tracked = _open_run(run, mode, project=project)
    tracked.define_metric("eval/iteration")
    tracked.define_metric("eval/*", step_metric="eval/iteration")
    for row in rows:
        tracked.log({"eval/iteration": row["iteration"], **{k: v for k, v in row.items() if k != "iteration"}})
    tracked.finish()
    wandb.teardown()  # waits for its service, which may still be writing the file of an offline run (0.31.0)


def _open_run(run: Path, mode: Any, **about: Any) -> Any:
    """Start or continue the W&B run of a run folder."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return wandb.init(
        dir=str(run),
        mode=mode,
        id=_run_id(run),
        resume="allow",
        settings=wandb.Settings(
            disable_git=True,
            disable_code=True,
            console="off",
            init_timeout=_INIT_TIMEOUT_SECONDS,
            finish_timeout=_FINISH_TIMEOUT_SECONDS,
        ),
        **about,
    )


def _run_id(run: Path) -> str:
    """Return the id of the W&B run of this run folder, drawn at the first call."""
    file = run / RUN_ID_NAME
    if not file.is_file():
        file.write_text(f"{uuid.uuid4().hex[:12]}\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
