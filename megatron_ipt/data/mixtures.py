"""How much of each dataset a mixture takes: shares and budget to whole numbers of samples.

The tokens of an entry are `fixed + scale x weight`, with one scale for all weights of a variant. megatron-core draws by
samples: its blend weights are given as whole numbers of samples, of which it then draws exactly that many in the run's
steps (a dataset is never ahead of its share by a whole sample, and at the last step the shares are whole).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from megatron_ipt.config.mixture import MixtureConfig, ShareConfig
from megatron_ipt.data.shares import find_amount_problems
from megatron_ipt.errors import Problem, UserError

Variant = Mapping[str, ShareConfig]


@dataclass(frozen=True)
class Draw:
    """What a blend takes of a dataset whose train part has `available_tokens`."""

    samples: int
    tokens: int
    available_tokens: int

    @property
    def epochs(self) -> float:
        """How often the train part is read."""
        return self.tokens / self.available_tokens


@dataclass(frozen=True)
class _Tokens:
    """Tokens of an entry: `fixed`, and `weight` times the variant's scale."""

    fixed: float = 0.0
    weight: float = 0.0


def plan_mixtures(config: MixtureConfig, available_tokens: Mapping[str, int]) -> dict[str, dict[str, Draw]]:
    """The draws of each variant, by dataset; every variant has the same number of samples, a multiple of the batch.

    Raises:
        UserError: an entry says nothing or too much, or the variants do not come to one budget.
    """
    _check(config)
    tokens = {name: _tokens_of(variant, available_tokens) for name, variant in config.variants.items()}
    scales = {name: _own_scale(variant, available_tokens) for name, variant in config.variants.items()}
    totals = {
        name: sum(one.fixed + scale * one.weight for one in tokens[name].values())
        for name, scale in scales.items()
        if scale is not None
    }
    budget = _budget(config, totals)
    samples = int(budget // _step_tokens(config)) * config.global_batch_size
    if not samples:
        raise UserError("tokens", round(budget), f"below one step of {_step_tokens(config)}", "give more")
    return {
        name: _draw(config, name, _scaled(name, tokens[name], scales[name], budget), samples, available_tokens)
        for name in config.variants
    }


def _step_tokens(config: MixtureConfig) -> int:
    return config.seq_length * config.global_batch_size


def _tokens_of(variant: Variant, available_tokens: Mapping[str, int]) -> dict[str, _Tokens]:
    found: dict[str, _Tokens] = {}
    for dataset, share in variant.items():
        base = share.equal_tokens_to or dataset
        told = variant[base]
        if told.weight is not None:
            found[dataset] = _Tokens(weight=told.weight)
        else:
            assert told.epochs is not None
            found[dataset] = _Tokens(fixed=told.epochs * available_tokens[base])
    return found


def _own_scale(variant: Variant, available_tokens: Mapping[str, int]) -> float | None:
    """The scale of the weights where the entries fix it themselves; 0 where there are no weights."""
    weighted = [(dataset, share) for dataset, share in variant.items() if share.weight is not None]
    for dataset, share in weighted:
        if share.weight is not None and share.epochs is not None:
            return share.epochs * available_tokens[dataset] / share.weight
    return None if weighted else 0.0


def _budget(config: MixtureConfig, totals: Mapping[str, float]) -> float:
    """The tokens of each variant.

    Raises:
        UserError: nothing tells, or two things tell otherwise.
    """
    if config.tokens is None and not totals:
        raise UserError("tokens", "(not set)", "every variant has an entry that fills a budget", "set it")
    budget = next(iter(totals.values())) if config.tokens is None else config.tokens
    problems = [
        Problem(
            f"variants.{name}",
            f"{round(total):,} tokens",
            f"the budget is {round(budget):,}",
            "give one of its entries a weight and no epochs, to fill the budget",
        )
        for name, total in totals.items()
        if abs(total - budget) >= _step_tokens(config)
    ]
    if problems:
        raise UserError.of(problems)
    return budget


def _scaled(name: str, tokens: Mapping[str, _Tokens], scale: float | None, budget: float) -> dict[str, float]:
    if scale is None:
        left = budget - sum(one.fixed for one in tokens.values())
        if left <= 0:
            reason = f"the entries with epochs alone take {round(budget - left):,} of {round(budget):,} tokens"
            raise UserError(f"variants.{name}", ", ".join(tokens), reason, "lower them, or raise tokens")
        scale = left / sum(one.weight for one in tokens.values())
    return {dataset: one.fixed + scale * one.weight for dataset, one in tokens.items()}


def _draw(
    config: MixtureConfig, name: str, tokens: Mapping[str, float], samples: int, available_tokens: Mapping[str, int]
) -> dict[str, Draw]:
    counts = apportion(tokens, samples)
    if none := [dataset for dataset, count in counts.items() if not count]:
        reason = f"less than one of {samples:,} samples"
        raise UserError(f"variants.{name}.{none[0]}", "(too little)", reason, "take more of it, or leave it out")
    return {
        dataset: Draw(count, count * config.seq_length, available_tokens[dataset]) for dataset, count in counts.items()
    }


def apportion(shares: Mapping[str, float], whole: int) -> dict[str, int]:
    """`whole` in whole numbers, as near to the shares as they come (largest remainders, the earlier of equal ones)."""
    total = sum(shares.values())
    exact = {name: whole * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    most_missing = sorted(counts, key=lambda name: counts[name] - exact[name])
    for name in most_missing[: whole - sum(counts.values())]:
        counts[name] += 1
    return counts


def _check(config: MixtureConfig) -> None:
    problems: list[Problem] = []
    for name, variant in config.variants.items():
        if "/" in name:
            problems.append(Problem("variants", name, "not the name of a file", "leave the / out"))
        for dataset, share in variant.items():
            problem = _problem_of(config, variant, dataset, share)
            if problem is not None:
                problems.append(replace(problem, field=f"variants.{name}.{problem.field}"))
        anchors = [dataset for dataset, share in variant.items() if share.weight is not None and share.epochs]
        if len(anchors) > 1:
            reason = "both have a weight and epochs, and either fixes the scale of all weights"
            problems.append(Problem(f"variants.{name}", ", ".join(anchors), reason, "leave the epochs of one out"))
    if problems:
        raise UserError.of(problems)


def _problem_of(config: MixtureConfig, variant: Variant, dataset: str, share: ShareConfig) -> Problem | None:
    if dataset not in config.datasets:
        known = ", ".join(config.datasets)
        return Problem(dataset, "(unknown)", "no dataset of that name", f"one of datasets: {known}")
    told = [name for name, value in share if value is not None]
    if told not in (["weight"], ["epochs"], ["weight", "epochs"], ["equal_tokens_to"]):
        reason = "nothing tells how much" if not told else "these do not go together"
        return Problem(dataset, ", ".join(told) or "(nothing)", reason, "give weight, epochs or equal_tokens_to")
    if (unfit := next(find_amount_problems(dataset, weight=share.weight, epochs=share.epochs), None)) is not None:
        return unfit
    other = share.equal_tokens_to
    if other is not None and (other not in variant or variant[other].equal_tokens_to is not None):
        named = [one for one, its in variant.items() if its.equal_tokens_to is None]
        reason = "no entry of this variant with a share of its own"
        return Problem(f"{dataset}.equal_tokens_to", other, reason, f"one of {', '.join(named)}")
    return None
