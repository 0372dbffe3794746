"""Convert a checkpoint of Megatron-LM to one that a run can start from and mcore-to-hf can export."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME
from megatron_ipt.checkpointing.streamed import StreamedModel
from megatron_ipt.checkpointing.weights import ReadPart, sharded_weights
from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.pretrain import DataConfig, PrecisionConfig, PretrainConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.core_model import CoreModel, build_core_model
from megatron_ipt.conversion.disk_space import require_space_for_weights
from megatron_ipt.conversion.megatron_lm.arguments import model_of, warnings_of
from megatron_ipt.conversion.megatron_lm.legacy import stored_in_shards
from megatron_ipt.conversion.megatron_lm.locate import MegatronLmCheckpoint, require_megatron_lm
from megatron_ipt.conversion.megatron_lm.sharded import stored_in_sharded
from megatron_ipt.conversion.megatron_lm.stored_arguments import plain_arguments, read_common
from megatron_ipt.conversion.model_tokenizer import open_model_tokenizer
from megatron_ipt.conversion.run_folder import save_as_run
from megatron_ipt.conversion.sources import DTYPE_COUNT
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.errors import UserError
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.tokenization.tokenizer_files import require_tokenizer_files
from megatron_ipt.tokenization.transformers_tokenizer import open_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Source:
    """What the conversion reads from a checkpoint of Megatron-LM before the weights."""

    checkpoint: MegatronLmCheckpoint
    arguments: dict[str, Any]
    tokenizer: Path


def open_stage(config: ConvertConfig) -> Stage:
    """Open the stage that reads the files of the checkpoint and the tokenizer.

    Raises:
        UserError: there is no such checkpoint, or no tokenizer, or the model cannot be converted.
    """
    source = _find_source(config)
    _model(source)
    identity = {"direction": config.direction, "dtype": config.dtype}
    inputs = [*source.checkpoint.files, *require_tokenizer_files(source.tokenizer)]
    return Stage("convert", Path(config.output), identity, inputs)


def convert(config: ConvertConfig, stage: Stage, groups: Groups, report: Callable[[str], None]) -> None:
    """Write OUTPUT/checkpoints/iter_0000000 and OUTPUT/run_config.yaml.

    Args:
        stage: as `open_stage` returns it.
        report: receives a line about the vocabulary, if it was padded, and warnings.

    Raises:
        UserError: the weights do not fit the arguments, or the tokenizer is larger than the model.
    """
    source, run = _find_source(config), Path(config.output)
    model, stored = _model(source), config.dtype or _stored_dtype(source.arguments)
    bf16 = stored == "bfloat16"  # checkpoints are bf16 or fp32; fp32 represents fp16 exactly
    open_model_tokenizer(source.tokenizer, model)
    finished = FinishedFiles(run)
    require_space_for_weights(run, model, "bfloat16" if bf16 else "float32", finished)
    core = build_core_model(model, groups, bf16=bf16, seq_length=1, on_meta=True)
    data, precision = DataConfig(tokenizer=str(source.tokenizer)), PrecisionConfig(bf16=bf16)
    written = PretrainConfig(run=str(run), model=model, data=data, precision=precision)
    with _stored(core, source.checkpoint) as read:
        stage.start()
        for warning in warnings_of(model):
            report(warning)
        padded = source.arguments.get("padded_vocab_size")
        if isinstance(padded, int) and padded > model.vocab_size:
            report(f"removed the padding of the vocabulary: {padded} rows, {model.vocab_size} kept")
        logger.info("converting the weights")
        streamed = StreamedModel(sharded_weights(core.chunk), read)
        checkpoint = save_as_run(streamed, written, Contents(0, 0, []), stage, finished)
    returned = stored if config.dtype is None else "bfloat16" if bf16 else "float32"
    counts = {"parameters": parameter_count(model), DTYPE_COUNT: returned}
    stage.finish([run / RUN_CONFIG_NAME, checkpoint / CONTENTS_NAME], counts)
    finished.clear()


def _stored(core: CoreModel, checkpoint: MegatronLmCheckpoint) -> AbstractContextManager[ReadPart]:
    """Within the context, parts of the parameters of `core` can be read from `checkpoint`."""
    if checkpoint.format == "torch":
        return nullcontext(stored_in_shards(core, checkpoint))
    return stored_in_sharded(core, checkpoint)


def _find_source(config: ConvertConfig) -> _Source:
    checkpoint = require_megatron_lm(Path(config.input))
    arguments = plain_arguments(read_common(checkpoint), checkpoint)
    named = config.tokenizer or arguments.get("tokenizer_model")
    if not isinstance(named, str) or not Path(named).is_dir():
        reason = "Megatron-LM's arguments name no Hugging Face tokenizer folder that is there"
        raise UserError("tokenizer", named, reason, "set tokenizer to the folder of the tokenizer it was trained with")
    return _Source(checkpoint, arguments, Path(named))


def _model(source: _Source) -> ModelConfig:
    """The shape of the model; its vocabulary is that of --vocab-size or, without it, the tokenizer's."""
    try:
        rows = source.arguments.get("vocab_size") or len(open_tokenizer(source.tokenizer))
        return model_of(source.arguments, rows)
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        reason = f"its arguments cannot be read: {str(error).splitlines()[0]}"
        raise UserError("input", source.checkpoint.folder, reason, "use a checkpoint that Megatron-LM saved") from error


def _stored_dtype(arguments: dict[str, Any]) -> str:
    if arguments.get("bf16"):
        return "bfloat16"
    return "float16" if arguments.get("fp16") else "float32"
