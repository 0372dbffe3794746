"""The checks of packages, folders and training."""

from __future__ import annotations

import math
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from megatron_ipt.checkpointing.contents import find_damage, read_contents
from megatron_ipt.checkpointing.layout import iteration_folder
from megatron_ipt.checkpointing.shared_folder import wait_until_visible
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.manifest import package_versions
from megatron_ipt.models.gpu_packages import check_installation, check_transformer_engine, find_unknown_pair
from megatron_ipt.selftest.tiny_run import ITERATIONS, REFERENCE_LOSSES, STOPPED_AT, read_losses
from megatron_ipt.selftest.verdicts import Failure, Skip

_TOLERANCE_ON_CPU, _TOLERANCE = 1e-3, 0.05
"""Relative differences of losses. GPUs draw other initial weights, and compute in bf16 or FP8."""
_FIRST_FP8_CAPABILITY = (8, 9)
_READY_NAME = "ready"
_COMPARED_PACKAGES = ("python", "megatron-ipt", "megatron-core", "torch")


def describe_packages() -> str:
    """Return the versions that must be the same on all ranks."""
    versions = {name: found for name, found in package_versions().items() if name in _COMPARED_PACKAGES}
    if torch.cuda.is_available():
        versions |= {"CUDA": str(torch.version.cuda), "GPU": torch.cuda.get_device_name()}
    return ", ".join(f"{name} {found}" for name, found in versions.items())


def check_packages(of_main: str) -> str:
    """Compare the versions of this rank with those of rank 0."""
    if (mine := describe_packages()) != of_main:
        raise Failure(f"{mine}; but on rank 0: {of_main}")
    return mine


def check_engine() -> str:
    """Check that Transformer Engine can be used with the other packages."""
    _require_engine()
    check_installation()
    check_transformer_engine()
    return find_unknown_pair() or f"{version('transformer_engine')} is known to work with these packages"


def mark_ready(folder: Path, token: str) -> None:
    """Write the file that `check_folder` waits for."""
    (folder / _READY_NAME).write_text(token, encoding="utf-8")


def check_folder(folder: Path, token: str, rank: int) -> str:
    """Check that this rank sees what rank 0 has written, and can write."""
    if not wait_until_visible(folder / _READY_NAME, token):
        raise Failure(f"a file that rank 0 has written to {folder} does not exist: give a folder that all nodes share")
    (folder / f"rank_{rank}").touch()
    return f"{folder.parent} is writable and shared"


def check_checkpoint(config: PretrainConfig) -> str:
    """Check the files of the last checkpoint of a run."""
    folder = iteration_folder(Path(config.run), ITERATIONS)
    contents = read_contents(folder)
    if (damage := find_damage(folder, contents.files)) is not None:
        raise Failure(f"{folder} is damaged: {damage}")
    mebibytes = sum(file.size_bytes for file in contents.files) / 2**20
    return f"iteration {ITERATIONS}: {len(contents.files)} files, {mebibytes:.1f} MiB, all hashes match"


def check_loss(config: PretrainConfig, *, on_gpus: bool) -> str:
    """Compare the losses of the reference run with the recorded ones."""
    losses = [row["lm_loss"] for row in read_losses(Path(config.run))]
    found = f"{losses[0]:.4f} to {losses[-1]:.4f} in {len(losses)} iterations"
    if losses[-1] >= losses[0] or not all(map(math.isfinite, losses)):
        raise Failure(f"the loss does not decrease: {found}")
    reference = REFERENCE_LOSSES.get(config.training.global_batch_size)
    if reference is None:
        return f"{found}; no reference for this number of ranks"
    tolerance = _TOLERANCE if on_gpus else _TOLERANCE_ON_CPU
    difference = max(abs(loss / known - 1) for loss, known in zip(losses, reference, strict=True))
    compared = f"{found}; reference {reference[0]:.4f} to {reference[-1]:.4f}, largest difference {difference:.2%}"
    if difference > tolerance:
        raise Failure(f"{compared}, {tolerance:.1%} allowed")
    return compared


def compare_resumed(undisturbed: PretrainConfig, resumed: PretrainConfig) -> str:
    """Compare the losses of a run that was stopped and resumed with those of the run that was not."""
    expected, found = (read_losses(Path(config.run)) for config in (undisturbed, resumed))
    if found != expected:
        raise Failure(f"the losses of the resumed run are {found}; those of one without interruption {expected}")
    return f"stopped after iteration {STOPPED_AT}: losses and gradient norms bitwise as without interruption"


def require_fp8() -> None:
    """Check that this rank can train in FP8.

    Raises:
        Skip: it cannot.
    """
    if not torch.cuda.is_available():
        raise Skip("no GPU")
    _require_engine()
    if torch.cuda.get_device_capability() < _FIRST_FP8_CAPABILITY:
        raise Skip(f"{torch.cuda.get_device_name()} has no FP8 matrix products")


def compare_fp8(reference: PretrainConfig, config: PretrainConfig) -> str:
    """Compare the last loss of a run in FP8 with that in bf16."""
    bf16, fp8 = (read_losses(Path(each.run))[-1]["lm_loss"] for each in (reference, config))
    compared = f"loss {fp8:.4f} after {ITERATIONS} iterations, {bf16:.4f} in bf16"
    if not abs(fp8 / bf16 - 1) <= _TOLERANCE:
        raise Failure(f"{compared}, {_TOLERANCE:.1%} difference allowed")
    return compared


def _require_engine() -> None:
    if find_spec("transformer_engine") is None:
        raise Skip("Transformer Engine is not installed")
