"""Entries of a blend given in epochs, converted to weights: whole numbers of samples."""

from __future__ import annotations

from pathlib import Path

from megatron_ipt.config.checks import is_split
from megatron_ipt.config.mixture import MixtureConfig, ShareConfig
from megatron_ipt.config.pretrain import DataConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.mixing.document_split import count_tokens
from megatron_ipt.mixing.mixtures import plan_mixtures

_VARIANT = "blend"


def resolve_epochs(data: DataConfig, train_samples: int, step_samples: int) -> DataConfig:
    """Return `data` with weights only: entries with epochs get their samples first, the others share the rest.

    Args:
        data: the settings; returned unchanged if no entry has epochs.
        train_samples: the number of training samples of the run.
        step_samples: the number of samples of one optimizer step.

    Raises:
        UserError: an entry has both a weight and epochs, or gets no sample; or all entries have epochs, and together
            they need another number of steps than the run has.
    """
    if all(entry.epochs is None for entry in data.blend):
        return data
    # entries are numbered, since two of them may name one dataset in different spellings
    shares = {str(number): ShareConfig(weight=e.share, epochs=e.epochs) for number, e in enumerate(data.blend)}
    _check(data, shares)
    tokens = {
        name: count_tokens(Path(entry.prefix), data.split, field="data.split")["train"]
        for name, entry in zip(shares, data.blend, strict=True)
    }
    _check_total(data, tokens, train_samples, step_samples)
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
        draws = plan_mixtures(mixture, tokens)[_VARIANT]
    except UserError as error:
        raise UserError.of(_translate_problems(error, data)) from error
    blend = [
        entry.model_copy(update={"weight": float(draws[name].samples), "epochs": None})
        for name, entry in zip(shares, data.blend, strict=True)
    ]
    return data.model_copy(update={"blend": blend})


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


def _check_total(data: DataConfig, tokens: dict[str, int], train_samples: int, step_samples: int) -> None:
    """Check, if no entry has a weight to fill up the run, that the epochs amount to the length of the run."""
    if any(entry.epochs is None for entry in data.blend):
        return
    total = sum((entry.epochs or 0) * count for entry, count in zip(data.blend, tokens.values(), strict=True))
    samples = total / data.seq_length
    if abs(samples - train_samples) >= step_samples:
        steps = max(1, int(samples // step_samples))
        raise UserError(
            "data.blend",
            f"{round(total):,} tokens",
            f"its epochs amount to {samples / step_samples:,.1f} steps, but the run takes {train_samples:,} samples",
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
