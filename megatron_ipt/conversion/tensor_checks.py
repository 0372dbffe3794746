"""Checks of tensors before they are converted: that names and shapes are those of the model, that values survive."""

from __future__ import annotations

import torch

from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.models.model_family import ModelFamily

_FETCH = "fetch the folder again"
_MAX_SHOWN = 5


def check_names(expected: set[str], optional: set[str], names: set[str], family: ModelFamily) -> None:
    """Check that the tensors called `names` are those of the model.

    Args:
        expected: names that the model has.
        optional: names that it may have.
        names: names that were found.
        family: the family of the model.

    Raises:
        UserError: they are those of a model in a wrapper or without its LM head, or some are missing or unknown.
    """
    missing = sorted(expected - names)
    unknown = sorted(name for name in names - expected - optional if not name.endswith("rotary_emb.inv_freq"))
    if not missing and not unknown:
        return
    [embedding], [head] = family.embedding.hf, family.head.hf
    reason, remedy = "the tensors are not those of the model in config.json", _FETCH
    if prefix := next((name.removesuffix(embedding) for name in sorted(names) if name.endswith(f".{embedding}")), ""):
        reason = f"the names begin with {prefix}: it was saved inside a wrapper, as torch.compile makes one"
        remedy = f"save the model itself (the attribute {prefix.rstrip('.').split('.')[0]} of the wrapper)"
    elif embedding.partition(".")[2] in names or missing == [head]:
        reason, remedy = "a base model without its LM head", f"save it as {family.architecture}"
    different = [f"no {name}" for name in missing] + [f"unknown {name}" for name in unknown]
    raise UserError("input", first_few(different), reason, remedy)


def check_shapes(expected: dict[str, torch.Size], weights: HfWeights) -> None:
    """Check every tensor against the shape that the model gives to it.

    Raises:
        UserError: some have another one.
    """
    wrong = [
        f"{name} {list(found)}, not {list(shape)}"
        for name, shape in expected.items()
        if (found := weights.shape(name)) != shape
    ]
    if wrong:
        raise UserError("input", first_few(wrong), "the shape does not fit config.json", _FETCH)


class ValueCheck:
    """Counts values that are no numbers, and those that are too large for a number format."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._broken: dict[str, int] = {}
        self._overflowing: dict[str, int] = {}

    @property
    def is_clean(self) -> bool:
        """Whether all values so far are numbers that the number format can hold."""
        return not self._broken and not self._overflowing

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Look at all values of one tensor."""
        if torch.stack(tensor.aminmax()).to(self._dtype).isfinite().all():
            return  # a fortieth of the time of what follows
        finite = tensor.isfinite()
        if count := int((~finite).sum()):
            self._broken[name] = count
        if count := int((finite & ~tensor.to(self._dtype).isfinite()).sum()):
            self._overflowing[name] = count

    def finish(self) -> None:
        """Say what was found.

        Raises:
            UserError: some values are not finite, or would not be; they are counted, and the tensors named.
        """
        problems = []
        if self._broken:
            reason = "not a number, or infinite: the model diverged, or the file is damaged"
            remedy = "convert an earlier checkpoint, or fetch the folder again"
            problems.append(Problem("input", _counted(self._broken), reason, remedy))
        if self._overflowing:
            name = str(self._dtype).removeprefix("torch.")
            largest = torch.finfo(self._dtype).max
            reason = f"larger than {largest:,.6g}, the largest number of {name}: they would become infinite"
            remedy = "choose bfloat16 or float32"
            problems.append(Problem("dtype", f"{name}, {_counted(self._overflowing)}", reason, remedy))
        if problems:
            raise UserError.of(problems)


def choose_format(weights: HfWeights, chosen: str | None) -> str:
    """The number format to store `weights` in: the `chosen` one, or that which all of them have.

    Raises:
        UserError: their formats differ and none was chosen, or they are not floating-point numbers.
    """
    formats = weights.formats()
    if not formats:
        raise UserError("input", "no tensors", "the safetensors files are empty", _FETCH)
    if unknown := sorted(formats.keys() - {"float32", "bfloat16", "float16"}):
        reason = "weights of this number format are not supported"
        raise UserError("input", f"{formats[unknown[0]]} is {unknown[0]}", reason, "save the model as bfloat16")
    if chosen is not None:
        return chosen
    if len(formats) > 1:
        found = " and ".join(f"{name} ({example})" for name, example in sorted(formats.items()))
        reason = "the weights have different number formats, and a checkpoint has one"
        raise UserError("dtype", found, reason, "set dtype=float32, which keeps every value, or dtype=bfloat16")
    return next(iter(formats))


def first_few(items: list[str]) -> str:
    """The first of `items` in one line, and how many more there are."""
    shown = "; ".join(items[:_MAX_SHOWN])
    return shown if len(items) <= _MAX_SHOWN else f"{shown}; and {len(items) - _MAX_SHOWN} more"


def _counted(values: dict[str, int]) -> str:
    listed = first_few([f"{count:,} of {name}" for name, count in values.items()])
    return f"{sum(values.values()):,} values: {listed}"
