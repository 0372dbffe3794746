"""The report of a training run: metrics, sources, checkpoints, configuration and lineage."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from megatron_ipt.observability.sessions import RunTimes
from megatron_ipt.reporting.curves import (
    SOURCE_LOSS,
    SOURCE_TOKENS,
    MetricRows,
    draw_losses,
    draw_small,
    draw_sources,
    rank_sources,
)
from megatron_ipt.reporting.pages import render_page
from megatron_ipt.reporting.rows import LineageRow, Tile

_SMALL_PLOTS = (
    ("learning_rate", "learning rate", 1.0),
    ("grad_norm", "gradient norm", 1.0),
    ("tokens_per_second", "thousand tokens/s", 1e-3),
    ("mfu", "% of the GPU's peak", 100.0),
    ("tflops_per_rank", "TFLOP/s/rank", 1.0),
    ("step_seconds", "seconds per step", 1.0),
    ("data_wait_share", "% of the time waiting for data", 100.0),
    ("peak_memory_gib", "peak memory of a rank, GiB", 1.0),
)


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint on disk; `seconds` is the time that saving it took, None if the run did not record it."""

    folder: str
    iteration: int
    files: int
    gib: float
    seconds: float | None
    is_latest: bool


@dataclass(frozen=True)
class SourceRow:
    """A source of the blend; `tokens` counts tokens with loss, `share` is relative to all sources."""

    name: str
    tokens: int
    share: float
    first_loss: float
    last_loss: float


@dataclass(frozen=True)
class TrainingRunReport:
    """A run, finished or not; `metrics` are the lines of metrics.jsonl, `config` its YAML."""

    run: str
    is_finished: bool
    parameters: int
    times: RunTimes | None
    """None for a run of an earlier version."""
    versions: Mapping[str, str]
    config: str
    metrics: MetricRows
    checkpoints: Sequence[CheckpointRow]
    lineage: Sequence[LineageRow]


def render_training_run(report: TrainingRunReport) -> str:
    """Render the page."""
    metrics = report.metrics
    small_plots = [draw_small(metrics, name, label, scale) for name, label, scale in _SMALL_PLOTS]
    return render_page(
        "training_run.html",
        report=report,
        tiles=[Tile("parameters", f"{report.parameters:,}"), *_machine_tiles(report.times), *_tiles(metrics)],
        losses_plot=draw_losses(metrics),
        sources_plot=draw_sources(metrics),
        sources=_sources(metrics),
        small_plots=[plot for plot in small_plots if plot is not None],
    )


def _machine_tiles(times: RunTimes | None) -> list[Tile]:
    """Describe hardware, layout and time of the run; hardware and layout are those of the last session."""
    if times is None:
        return []
    last = times.sessions[-1]
    unit = "CPU rank-hours" if last.device == "CPU" else "GPU-hours"
    return [
        Tile("ranks", f"{last.ranks} x {last.device}"),
        Tile("layout", last.layout),
        Tile("wall time", str(timedelta(seconds=round(times.wall_seconds)))),
        Tile(unit, f"{times.rank_hours:,.1f}" if times.rank_hours >= 1 else f"{times.rank_hours:.3f}"),
        Tile("restarts", f"{len(times.sessions) - 1}"),
        Tile("goodput", f"{times.goodput:.1%}", "time in steps that count, of the wall time over all restarts"),
    ]


def _tiles(metrics: MetricRows) -> list[Tile]:
    training = [row for row in metrics if "step_seconds" in row]
    losses = [row["lm_loss"] for row in metrics if "lm_loss" in row]
    validation = [row["validation_loss"] for row in metrics if "validation_loss" in row]
    saves = [row["checkpoint_seconds"] for row in metrics if "checkpoint_seconds" in row]
    tiles: list[Tile] = []
    if training:
        last = training[-1]
        tiles += [
            Tile("iterations", f"{last['iteration']:,}"),
            Tile("tokens read", f"{last['consumed_train_tokens']:,}"),
            Tile("tokens/s (median)", f"{statistics.median(row['tokens_per_second'] for row in training):,.0f}"),
            Tile("TFLOP/s/rank", f"{statistics.median(row['tflops_per_rank'] for row in training):.3g}"),
        ]
        if used := [row["mfu"] for row in training if "mfu" in row]:
            tiles.append(Tile("of the GPU's peak", f"{statistics.median(used):.1%}"))
        tiles.append(Tile("skipped steps", f"{last['skipped_steps']:,}"))
    if losses:
        tiles.append(Tile("training loss", f"{losses[0]:.3f} → {losses[-1]:.3f}"))
    if validation:
        tiles.append(Tile("validation loss", f"{validation[0]:.3f} → {validation[-1]:.3f}"))
    if saves:
        tiles.append(Tile("seconds per checkpoint (median)", f"{statistics.median(saves):.1f}"))
    return tiles


def _sources(metrics: MetricRows) -> list[SourceRow]:
    """Return the sources of a blend, most tokens first; none if the run reads one source only."""
    names = rank_sources(metrics)
    counted = {name: sum(row.get(f"{SOURCE_TOKENS}{name}", 0) for row in metrics) for name in names}
    table = []
    for name in names if len(names) > 1 else []:
        losses = [row[f"{SOURCE_LOSS}{name}"] for row in metrics if f"{SOURCE_LOSS}{name}" in row]
        share = counted[name] / sum(counted.values())
        table.append(SourceRow(name, counted[name], share, losses[0], losses[-1]))
    return table
