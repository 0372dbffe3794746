"""Checks of a run before torch is imported; all problems are reported together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME, iteration_folders, resolve_checkpoint
from megatron_ipt.config.automatic import resolve_automatic
from megatron_ipt.config.batch_checks import find_rampup_problems
from megatron_ipt.config.checks import find_problems, is_split
from megatron_ipt.config.gpus import has_gpu
from megatron_ipt.config.layout import ranks_per_replica
from megatron_ipt.config.loading import load_recorded
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.settings import identity_of
from megatron_ipt.corpus.document_ends import find_missing_eos
from megatron_ipt.corpus.indexed_writer import (
    LOSS_MASK_SUFFIX,
    LOSS_MASK_VALUES,
    check_indexed_dataset,
    marks_documents,
    read_document_lengths,
)
from megatron_ipt.corpus.lineage import STARTED_FROM
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.errors import Problem, UserError, problems_of
from megatron_ipt.mixing.blend_epochs import resolve_epochs
from megatron_ipt.mixing.document_split import count_tokens
from megatron_ipt.mixing.mixtures import find_repeated_datasets
from megatron_ipt.models.gpu_packages import check_installation
from megatron_ipt.observability.wandb_tracker import check_wandb
from megatron_ipt.observability.webhook import read_webhook_url
from megatron_ipt.tokenization.tokenizers import read_tokenizer
from megatron_ipt.training.changes import changed_settings, is_same
from megatron_ipt.training.export_checks import check_export
from megatron_ipt.training.lost_manifest import STAGE_NAME, recover_manifest
from megatron_ipt.training.plugins import find_callback_problems


def check(config: PretrainConfig, world_size: int) -> None:
    """Check the configuration, the number of ranks, and the files that the configuration names.

    Raises:
        UserError: with every problem found.
    """
    problems = find_problems(config, world_size)
    checks = (
        _check_kernels,
        _check_shared_documents,
        _check_tokenizer,
        _check_data,
        _check_pretrained_checkpoint,
        _check_resumed_run,
        _check_tracking,
        partial(_check_profile, world_size=world_size),
        _check_callbacks,
        _check_alerts,
        check_export,
    )
    for check_one in checks:
        problems += problems_of(partial(check_one, config))
    if problems:
        raise UserError.of(problems)


def check_data(config: PretrainConfig) -> None:
    """Check the configuration, data and tokenizer, which a machine without GPUs can do.

    Raises:
        UserError: with every problem found.
    """
    problems = find_problems(config, ranks_per_replica(config.parallel))
    for check_one in (_check_tokenizer, _check_data):
        problems += problems_of(partial(check_one, config))
    if problems:
        raise UserError.of(problems)


def open_stage(config: PretrainConfig) -> Stage:
    """Return the run folder as a stage, with its inputs and the settings that must not change when it is resumed."""
    identity: dict[str, Any] = {
        "model": identity_of(config.model) | {"preset": None},
        "seq_length": config.data.seq_length,
        "split": config.data.split,
        "weights": [entry.share or f"{entry.epochs} epochs" for entry in config.data.blend],
        "global_batch_size": config.training.global_batch_size,
        "rampup_batch_size": config.training.rampup_batch_size,
    }
    if config.checkpoint.load_optimizer:
        identity[STARTED_FROM] = "weights and optimizer state"
    prefixes = [prefix for entry in config.data.blend for prefix in (entry.prefix, f"{entry.prefix}{LOSS_MASK_SUFFIX}")]
    data = [Path(f"{prefix}{ending}") for prefix in prefixes for ending in (".bin", ".idx")]
    data = [file for file in data if file.is_file() or LOSS_MASK_SUFFIX not in file.name]
    run = Path(config.run)
    recover_manifest(run)
    return Stage(
        STAGE_NAME,
        run,
        identity,
        [*data, *_seal_of_base(config)],
        config.training.seed,
        trusts_manifests=True,
        has_results=lambda: bool(iteration_folders(run)),
    )


def resolve_settings(config: PretrainConfig, world_size: int, *, on_gpus: bool) -> PretrainConfig:
    """Return `config` with a value for each automatic setting; `check` must have accepted it.

    Raises:
        UserError: the values that follow from the checkpoint conflict with other settings.
    """
    resolved = resolve_automatic(config, world_size, on_gpus=on_gpus, loaded=_read_optimizer_origin(config))
    if problems := find_problems(resolved, world_size):
        raise UserError.of(problems)
    return resolved


def _read_optimizer_origin(config: PretrainConfig) -> PretrainConfig | None:
    """Return the configuration of the run that saved the optimizer state to start from; None if there is none."""
    run = Path(config.run)
    if (run / RUN_CONFIG_NAME).is_file() and iteration_folders(run):
        return load_recorded(PretrainConfig, run / RUN_CONFIG_NAME)
    named = config.checkpoint.pretrained_checkpoint
    if named is None or not config.checkpoint.load_optimizer:
        return None
    folder = resolve_checkpoint(Path(named))
    return None if folder is None else load_recorded(PretrainConfig, folder / RUN_CONFIG_NAME)


def is_finished(config: PretrainConfig, stage: Stage) -> bool:
    """Return whether the run is finished: trained for all its iterations with this configuration.

    Raises:
        UserError: it is finished, but was trained with settings that lead to different weights.
    """
    if not stage.is_complete or stage.counts["iteration"] < config.training.train_iters:
        return False
    before = load_recorded(PretrainConfig, Path(config.run) / RUN_CONFIG_NAME)
    if changed := changed_settings(before, config):
        raise UserError(
            "run",
            config.run,
            f"it is finished, and was trained with other settings: {'; '.join(changed)}",
            "use a different run folder, restore these settings, or raise training.train_iters to continue with the "
            "new ones",
        )
    return True


def _seal_of_base(config: PretrainConfig) -> list[Path]:
    """Return checkpoint.json of the checkpoint that the run starts from, which holds the hashes of its files."""
    named = config.checkpoint.pretrained_checkpoint
    folder = None if named is None else resolve_checkpoint(Path(named))
    return [] if folder is None else [folder / CONTENTS_NAME]


def _check_kernels(config: PretrainConfig) -> None:
    check_installation()
    precision = config.precision
    if (precision.fp8 or precision.transformer_impl == "transformer_engine") and find_spec(
        "transformer_engine"
    ) is None:
        key, value = ("fp8", precision.fp8) if precision.fp8 else ("transformer_impl", precision.transformer_impl)
        raise UserError(
            f"precision.{key}",
            value,
            "Transformer Engine is not installed, and it needs a Hopper GPU or newer",
            "pip install 'megatron-ipt[te]' on such a machine, or leave fp8 unset and transformer_impl=auto",
        )


def _check_shared_documents(config: PretrainConfig) -> None:
    """Check that the attention which will run can share packed samples between context-parallel ranks."""
    precision = config.precision
    has_engine = precision.transformer_impl == "auto" and has_gpu() and find_spec("transformer_engine") is not None
    uses_engine = has_engine or precision.transformer_impl == "transformer_engine" or precision.fp8 is not None
    if uses_engine and config.data.reset_attention_mask and config.parallel.context_parallel_size > 1:
        raise UserError(
            "data.reset_attention_mask",
            True,
            "with context parallelism, Transformer Engine divides each document evenly over the ranks, which needs "
            "documents padded to a multiple of twice their number",
            "set parallel.context_parallel_size=1 (sequence_parallel also reduces activation memory), or "
            "precision.transformer_impl=local without fp8",
        )


def _check_tokenizer(config: PretrainConfig) -> None:
    tokenizer = read_tokenizer(Path(config.data.tokenizer))
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            "model.vocab_size",
            config.model.vocab_size,
            f"the tokenizer {config.data.tokenizer} has {tokenizer.vocab_size} entries",
            f"set model.vocab_size to {tokenizer.vocab_size} or more, or use a different tokenizer",
        )


def _check_data(config: PretrainConfig) -> None:
    problems: list[Problem] = []
    for entry in config.data.blend:
        problems += problems_of(partial(_check_training_dataset, config, Path(entry.prefix)))
    for held_out in config.data.validation_sets:
        problems += problems_of(partial(_check_dataset, config, Path(held_out.prefix)))
    if not problems:
        prefixes = [(f"entry {n} of data.blend", entry.prefix) for n, entry in enumerate(config.data.blend, start=1)]
        problems += [*find_repeated_datasets(prefixes), *_find_missing_ends(config)]
    if not problems and is_split(config.data.split) and not any(find_rampup_problems(config.training)):
        problems += problems_of(lambda: resolve_epochs(config.data, config.training))
    if problems:
        raise UserError.of(problems)


def _check_training_dataset(config: PretrainConfig, prefix: Path) -> None:
    _check_dataset(config, prefix)
    if is_split(config.data.split):
        count_tokens(prefix, config.data.split, field="data.split")


def _check_dataset(config: PretrainConfig, prefix: Path) -> None:
    check_indexed_dataset(prefix, config.model.vocab_size)
    mask = Path(f"{prefix}{LOSS_MASK_SUFFIX}")
    if any(Path(f"{mask}{ending}").is_file() for ending in (".bin", ".idx")):
        check_indexed_dataset(mask, LOSS_MASK_VALUES)
    _check_sequences(config, prefix)


def _check_sequences(config: PretrainConfig, prefix: Path) -> None:
    """Check that `data.seq_length` is the length to which conversations were packed."""
    if not marks_documents(prefix):
        return
    packed_to = int(read_document_lengths(prefix)[0])
    if packed_to != config.data.seq_length:
        raise UserError(
            "data.seq_length",
            config.data.seq_length,
            f"the sequences of {prefix} have {packed_to} tokens",
            f"set data.seq_length={packed_to}, or build the dataset again with seq_length={config.data.seq_length}",
        )


def _find_missing_ends(config: PretrainConfig) -> Iterator[Problem]:
    try:
        tokenizer = read_tokenizer(Path(config.data.tokenizer))
    except UserError:
        return  # `_check_tokenizer` reports it
    yield from find_missing_eos(config.data, tokenizer.eos_id)


def _check_pretrained_checkpoint(config: PretrainConfig) -> None:
    named = config.checkpoint.pretrained_checkpoint
    if named is None:
        if config.checkpoint.load_optimizer:
            reason, remedy = "there is no checkpoint to take it from", "set checkpoint.pretrained_checkpoint as well"
            raise UserError("checkpoint.load_optimizer", True, reason, remedy)
        return
    folder = resolve_checkpoint(Path(named))
    if folder is None:
        raise UserError(
            "checkpoint.pretrained_checkpoint",
            named,
            "there is no finished checkpoint",
            "use a run or an iter_* folder; a conversion has to finish and pass its parity check first",
        )
    _compare_models("checkpoint.pretrained_checkpoint", folder / RUN_CONFIG_NAME, config.model)
    if config.checkpoint.load_optimizer:
        before = load_recorded(PretrainConfig, folder / RUN_CONFIG_NAME)
        _check_optimizer_state(before, config, folder, "load only its weights (checkpoint.load_optimizer=false)")


def _check_resumed_run(config: PretrainConfig) -> None:
    """Check that a resumed run keeps the architecture of its model and the type of its optimizer state."""
    file = Path(config.run) / RUN_CONFIG_NAME
    if not file.is_file() or not iteration_folders(Path(config.run)):
        return
    _compare_models("model", file, config.model)
    before = load_recorded(PretrainConfig, file)
    _check_epochs_of_resumed_run(before, config)
    remedy = "start a new run from its weights (checkpoint.pretrained_checkpoint)"
    _check_optimizer_state(before, config, file.parent, remedy)


def _check_optimizer_state(before: PretrainConfig, config: PretrainConfig, folder: Path, remedy: str) -> None:
    """Check that a run with `config` can load the optimizer state in `folder`, saved by a run with `before`.

    Settings that `config` leaves automatic take the values of `before`.
    """
    for section, name in (("parallel", "use_distributed_optimizer"), ("precision", "bf16"), ("optimizer", "optimizer")):
        saved, wanted = (getattr(getattr(each, section), name) for each in (before, config))
        if wanted is not None and saved != wanted:
            raise UserError(
                f"{section}.{name}",
                wanted,
                f"the optimizer state in {folder} was saved with {saved}, and has a different format",
                f"keep {saved}, or {remedy}",
            )


def _check_epochs_of_resumed_run(before: PretrainConfig, config: PretrainConfig) -> None:
    """Check that the length of a run with epochs is unchanged: it determines how they are spread over the run."""
    saved, wanted = before.training.train_iters, config.training.train_iters
    if saved != wanted and any(entry.epochs is not None for entry in config.data.blend):
        raise UserError(
            "training.train_iters",
            wanted,
            f"data.blend gives epochs, which the steps so far spread over {saved:,} iterations: in a run of another "
            "length, the datasets would not be read for the given epochs",
            f"keep training.train_iters={saved}, or start a new run from these weights "
            "(checkpoint.pretrained_checkpoint)",
        )


def _check_tracking(config: PretrainConfig) -> None:
    if config.tracking.wandb_mode != "disabled":
        check_wandb(config.tracking.wandb_mode)


def _check_profile(config: PretrainConfig, world_size: int) -> None:
    profile = config.profile
    absent = [rank for rank in profile.ranks if not 0 <= rank < world_size]
    if absent and profile.tool is not None:
        reason, remedy = f"the run has ranks 0 to {world_size - 1}", "use only ranks of the run"
        raise UserError("profile.ranks", ", ".join(map(str, absent)), reason, remedy)
    if profile.last_iteration < profile.first_iteration:
        reason = f"it comes before profile.first_iteration = {profile.first_iteration}"
        raise UserError("profile.last_iteration", profile.last_iteration, reason, "raise it to that or more")


def _check_callbacks(config: PretrainConfig) -> None:
    if problems := find_callback_problems(config.training.callbacks):
        raise UserError.of(problems)


def _check_alerts(config: PretrainConfig) -> None:
    if config.alerts.url_variable is not None:
        read_webhook_url(config.alerts.url_variable)


def _compare_models(field: str, file: Path, model: ModelConfig) -> None:
    saved, wanted = (shape.model_dump() | _FREE_TO_CHANGE for shape in (_model_in(file), model))
    different = [
        f"{key} is {saved[key]} in the checkpoint, {wanted[key]} in this configuration"
        for key in saved
        if not is_same(saved[key], wanted[key])
    ]
    if different:
        raise UserError(
            field,
            f"differs from {file}",
            "; ".join(different),
            "keep the architecture of the checkpoint, or start a new run folder",
        )


_FREE_TO_CHANGE: dict[str, Any] = dict.fromkeys(
    ("preset", "init_method_std", "attention_dropout", "hidden_dropout", "max_position_embeddings")
)


def _model_in(file: Path) -> ModelConfig:
    return load_recorded(PretrainConfig, file).model
