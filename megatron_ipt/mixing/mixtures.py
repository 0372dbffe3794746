"""Plans of mixtures: shares and a token budget converted to whole numbers of samples per dataset.

The number of tokens of an entry is `fixed + scale x weight`, with one scale for all weights of a variant. megatron-core
draws samples: it gets whole numbers of samples as blend weights, and draws exactly that many in the steps of the run,
because it never lets a dataset exceed its share by a whole sample, and the shares are whole numbers at the last step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ipt.config.mixture import MixtureConfig, ShareConfig
from megatron_ipt.errors import Problem, UserError

Variant = Mapping[str, ShareConfig]
MAX_USEFUL_EPOCHS = 4
"""Up to this number, repeated text is almost as good as new text; beyond, its value decays (arXiv 2305.16264)."""


@dataclass(frozen=True)
class Allocation:
    """The part of a blend that one dataset provides; its train part has `available_tokens`."""

    samples: int
    tokens: int
    available_tokens: int

    @property
    def epochs(self) -> float:
        """The number of times that the train part is read."""
        return self.tokens / self.available_tokens


@dataclass(frozen=True)
class _Tokens:
    """The number of tokens of an entry: `fixed`, plus `weight` times the scale of the variant."""

    fixed: float = 0.0
    weight: float = 0.0


def plan_mixtures(config: MixtureConfig, available_tokens: Mapping[str, int]) -> dict[str, dict[str, Allocation]]:
    """Allocate samples to the datasets of each variant.

    Every variant gets the same number of samples, a multiple of `config.global_batch_size`.

    Args:
        config: the datasets, the variants and the budget.
        available_tokens: the number of tokens in the train part of each dataset.

    Returns:
        The allocations by dataset, by variant.

    Raises:
        UserError: an entry gives no amount or several, or the variants have different budgets.
    """
    _check(config)
    tokens = {name: _tokens_of(variant, available_tokens) for name, variant in config.variants.items()}
    scales = {name: _own_scale(variant, available_tokens) for name, variant in config.variants.items()}
    totals = {
        name: sum(entry.fixed + scale * entry.weight for entry in tokens[name].values())
        for name, scale in scales.items()
        if scale is not None
    }
    budget = _budget(config, totals)
    samples = int(budget // _step_tokens(config)) * config.global_batch_size
    if not samples:
        raise UserError("tokens", round(budget), f"less than one step of {_step_tokens(config)} tokens", "raise tokens")
    return {
        name: _allocate(
            config, name, _token_counts(name, tokens[name], scales[name], budget), samples, available_tokens
        )
        for name in config.variants
    }


def _step_tokens(config: MixtureConfig) -> int:
    return config.seq_length * config.global_batch_size


def _tokens_of(variant: Variant, available_tokens: Mapping[str, int]) -> dict[str, _Tokens]:
    found: dict[str, _Tokens] = {}
    for dataset, share in variant.items():
        base = share.equal_tokens_to or dataset
        amount = variant[base]
        if amount.weight is not None:
            found[dataset] = _Tokens(weight=amount.weight)
        else:
            assert amount.epochs is not None
            found[dataset] = _Tokens(fixed=amount.epochs * available_tokens[base])
    return found


def _own_scale(variant: Variant, available_tokens: Mapping[str, int]) -> float | None:
    """Return the scale of the weights if an entry fixes it, 0 if there are no weights, None if the budget decides."""
    weighted = [(dataset, share) for dataset, share in variant.items() if share.weight is not None]
    for dataset, share in weighted:
        if share.weight is not None and share.epochs is not None:
            return share.epochs * available_tokens[dataset] / share.weight
    return None if weighted else 0.0


def _budget(config: MixtureConfig, totals: Mapping[str, float]) -> float:
    """Return the number of tokens of each variant.

    Raises:
        UserError: nothing determines the budget, or two sources contradict each other.
    """
    if config.tokens is None and not totals:
        raise UserError("tokens", "(not set)", "every variant has entries that fill up a budget", "set the budget")
    budget = next(iter(totals.values())) if config.tokens is None else config.tokens
    problems = [
        Problem(
            f"variants.{name}",
            f"{round(total):,} tokens",
            f"the budget is {round(budget):,} tokens",
            "give one of its entries a weight instead of epochs, to fill up the budget",
        )
        for name, total in totals.items()
        if abs(total - budget) >= _step_tokens(config)
    ]
    if problems:
        raise UserError.of(problems)
    return budget


def _token_counts(name: str, tokens: Mapping[str, _Tokens], scale: float | None, budget: float) -> dict[str, float]:
    """Return the tokens of each entry of variant `name`; if `scale` is None, the weights fill up the budget."""
    if scale is None:
        rest = budget - sum(entry.fixed for entry in tokens.values())
        if rest <= 0:
            reason = f"the entries with epochs already take {round(budget - rest):,} of {round(budget):,} tokens"
            raise UserError(f"variants.{name}", ", ".join(tokens), reason, "lower them, or raise tokens")
        scale = rest / sum(entry.weight for entry in tokens.values())
    return {dataset: entry.fixed + scale * entry.weight for dataset, entry in tokens.items()}


def _allocate(
    config: MixtureConfig, name: str, tokens: Mapping[str, float], samples: int, available_tokens: Mapping[str, int]
) -> dict[str, Allocation]:
    counts = apportion(tokens, samples)
    if empty := [dataset for dataset, count in counts.items() if not count]:
        reason = f"less than one of {samples:,} samples"
        raise UserError(f"variants.{name}.{empty[0]}", "(too little)", reason, "raise its share, or leave it out")
    return {
        dataset: Allocation(count, count * config.seq_length, available_tokens[dataset])
        for dataset, count in counts.items()
    }


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Split `total` into whole numbers proportional to the shares, by largest remainders; ties go to earlier shares."""
    share_sum = sum(shares.values())
    exact = {name: total * share / share_sum for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - exact[name])  # largest first; stable for ties
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def find_repeated_datasets(prefixes: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Find fields that name the dataset of an earlier field, even if its path is spelled differently.

    megatron-core shuffles by seed and size, so both entries would yield the same samples in the same order.

    Args:
        prefixes: pairs of a field and the prefix that it names, whose .idx file exists.
    """
    fields: dict[tuple[int, int], str] = {}
    for field, prefix in prefixes:
        status = Path(f"{prefix}.idx").stat()
        earlier = fields.setdefault((status.st_dev, status.st_ino), field)
        if earlier != field:
            reason = f"the same dataset as {earlier}: samples would be read twice in a row, and others never"
            yield Problem(field, prefix, reason, "list it once, with the sum of both shares")


def _check(config: MixtureConfig) -> None:
    problems: list[Problem] = []
    for name, variant in config.variants.items():
        if "/" in name:
            problems.append(Problem("variants", name, "not a file name", "remove the /"))
        for dataset, share in variant.items():
            problem = _problem_of(config, variant, dataset, share)
            if problem is not None:
                problems.append(replace(problem, field=f"variants.{name}.{problem.field}"))
        anchors = [dataset for dataset, share in variant.items() if share.weight is not None and share.epochs]
        if len(anchors) > 1:
            reason = "each has a weight and epochs, which fix the scale of all weights; only one entry may"
            problems.append(Problem(f"variants.{name}", ", ".join(anchors), reason, "remove the epochs of the others"))
    if problems:
        raise UserError.of(problems)


def _problem_of(config: MixtureConfig, variant: Variant, dataset: str, share: ShareConfig) -> Problem | None:
    if dataset not in config.datasets:
        known = ", ".join(config.datasets)
        return Problem(dataset, "(unknown)", "no dataset of that name", f"one of datasets: {known}")
    given = [name for name, value in share if value is not None]
    if given not in (["weight"], ["epochs"], ["weight", "epochs"], ["equal_tokens_to"]):
        reason = "no amount is given" if not given else "these exclude each other"
        return Problem(dataset, ", ".join(given) or "(nothing)", reason, "give weight, epochs or equal_tokens_to")
    other = share.equal_tokens_to
    if other is not None and (other not in variant or variant[other].equal_tokens_to is not None):
        candidates = [name for name, amount in variant.items() if amount.equal_tokens_to is None]
        reason = "not an entry of this variant with a weight or epochs"
        return Problem(f"{dataset}.equal_tokens_to", other, reason, f"one of {', '.join(candidates)}")
    return None
