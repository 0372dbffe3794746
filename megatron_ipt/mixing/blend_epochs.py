"""Entries of a blend given in epochs, converted to weights: whole numbers of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_ipt.config.batch_sizes import BatchSizes
from megatron_ipt.config.checks import is_split
from megatron_ipt.config.mixture import MixtureConfig, ShareConfig
from megatron_ipt.config.pretrain import DataConfig, TrainingConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.mixing.document_split import count_tokens
from megatron_ipt.mixing.mixtures import MAX_USEFUL_EPOCHS, apportion, plan_mixtures

_VARIANT = "blend"


def resolve_epochs(data: DataConfig, training: TrainingConfig) -> DataConfig:
    """Return `data` with weights only: entries with epochs get their samples first, the others share the rest.

    Args:
        data: the settings; returned unchanged if no entry has epochs.
        training: the length of the run and its batches.

    Raises:
        UserError: an entry has both a weight and epochs, or gets no sample; or all entries have epochs that do not add
            up to the length of the run.
    """
    if all(entry.epochs is None for entry in data.blend):
        return data
    # entries are numbered, since two of them may refer to the same dataset by different paths
    shares = {str(number): ShareConfig(weight=e.share, epochs=e.epochs) for number, e in enumerate(data.blend)}
    _check(data, shares)
    tokens = dict(zip(shares, _training_tokens(data), strict=True))
    _check_total(data, tokens, training)
    train_samples, step_samples = BatchSizes(training).samples_after(training.train_iters), training.global_batch_size
    mixture = MixtureConfig(
        datasets={name: entry.prefix for name, entry in zip(shares, data.blend, strict=True)},
        variants={_VARIANT: shares},
        output="",
        tokens=train_samples * data.seq_length,
        seq_length=data.seq_length,
        global_batch_size=1 if None in {share.epochs for share in shares.values()} else step_samples,
        split=data.split,
    )
    try:
        allocations = plan_mixtures(mixture, tokens)[_VARIANT]
    except UserError as error:
        raise UserError.of(_translate_problems(error, data)) from error
    blend = [
        entry.model_copy(update={"weight": float(allocations[name].samples), "epochs": None})
        for name, entry in zip(shares, data.blend, strict=True)
    ]
    return data.model_copy(update={"blend": blend})


def count_epochs(data: DataConfig, training: TrainingConfig) -> list[tuple[int, float]]:
    """Return, for each entry of `data`, its number of samples in the run and of epochs over its training split.

    Raises:
        UserError: as for `resolve_epochs`.
    """
    resolved = resolve_epochs(data, training)
    shares = {str(number): entry.share or 0.0 for number, entry in enumerate(resolved.blend)}
    samples = apportion(shares, BatchSizes(training).samples_after(training.train_iters))
    return [
        (count, count * data.seq_length / tokens)
        for count, tokens in zip(samples.values(), _training_tokens(data), strict=True)
    ]


def describe_repeats(data: DataConfig, counts: Sequence[tuple[int, float]]) -> Iterator[str]:
    """Yield a warning for each entry of `data` that is repeated often without an `epochs` setting.

    `counts` is the result of `count_epochs`.
    """
    for entry, (_, epochs) in zip(data.blend, counts, strict=True):
        if entry.epochs is None and epochs > MAX_USEFUL_EPOCHS:
            yield (
                f"warning: {entry.prefix} is read {epochs:.1f} times; beyond {MAX_USEFUL_EPOCHS} times, repeated text "
                "is worth less and less: add data, or lower its weight or training.train_iters"
            )


def _training_tokens(data: DataConfig) -> list[int]:
    """Return the number of tokens in the training split of each entry, at least 1."""
    return [count_tokens(Path(entry.prefix), data.split, field="data.split")["train"] for entry in data.blend]


def _check(data: DataConfig, shares: dict[str, ShareConfig]) -> None:
    problems = []
    if not is_split(data.split) or not float(data.split.partition(",")[0]):
        reason = "not a split, or no share for training, whose documents the epochs count"
        problems.append(Problem("data.split", data.split, reason, "write TRAIN,VALIDATION,TEST, such as 99,1,0"))
    for entry, share in zip(data.blend, shares.values(), strict=True):
        if share.epochs is not None and share.weight is not None:
            value = f"weight {entry.weight}, epochs {entry.epochs}"
            reason = "weight and epochs exclude each other"
            problems.append(Problem(f"data.blend of {entry.prefix}", value, reason, "give one of them"))
    if problems:
        raise UserError.of(problems)


def _check_total(data: DataConfig, tokens: dict[str, int], training: TrainingConfig) -> None:
    """Check, if no entry has a weight to fill up the run, that the epochs amount to the length of the run."""
    if any(entry.epochs is None for entry in data.blend):
        return
    total = sum((entry.epochs or 0) * count for entry, count in zip(data.blend, tokens.values(), strict=True))
    sizes, samples = BatchSizes(training), total / data.seq_length
    train_samples = sizes.samples_after(training.train_iters)
    if abs(samples - train_samples) >= training.global_batch_size:
        steps = max(1, sizes.iterations_within(samples))
        raise UserError(
            "data.blend",
            f"{round(total):,} tokens",
            f"its epochs amount to {samples:,.0f} samples, but the run takes {train_samples:,}",
            f"set training.train_iters={steps}, or give one entry a weight instead of epochs",
        )


def _translate_problems(error: UserError, data: DataConfig) -> list[Problem]:
    """Translate problems of the mixture that represents the run into problems of its settings."""
    problems = []
    for problem in error.problems:
        number, _, rest = problem.field.removeprefix(f"variants.{_VARIANT}").removeprefix(".").partition(".")
        named = f" of {data.blend[int(number)].prefix}" if number.isdigit() else ""
        value = problem.value if number.isdigit() else ", ".join(entry.prefix for entry in data.blend)
        remedy = problem.remedy.replace("raise tokens", "raise training.train_iters")
        problems.append(Problem(f"data.blend{named}{'.' if rest else ''}{rest}", value, problem.reason, remedy))
    return problems
