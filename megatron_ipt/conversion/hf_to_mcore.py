"""From a Hugging Face folder to a checkpoint that a run at any layout can start from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME
from megatron_ipt.checkpointing.streamed import StreamedModel
from megatron_ipt.checkpointing.weights import sharded_weights
from megatron_ipt.config.pretrain import DataConfig, PrecisionConfig, PretrainConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.carried import keep_files
from megatron_ipt.conversion.core_model import build_core_model, in_fp32, parts_in_hf, stored_in_hf
from megatron_ipt.conversion.disk_space import require_space_for_weights
from megatron_ipt.conversion.hf_config import read_model_config, unread_attributes
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.model_tokenizer import open_model_tokenizer, parity_tokens
from megatron_ipt.conversion.parity import check_parity
from megatron_ipt.conversion.run_folder import save_as_run
from megatron_ipt.conversion.sources import DTYPE_COUNT, import_files
from megatron_ipt.conversion.tensor_checks import ValueCheck, choose_format
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.parallel.groups import Groups

logger = logging.getLogger(__name__)
_NO_TOKENS = torch.empty(1, 1)


def open_stage(config: ConvertConfig) -> Stage:
    """Open the stage that reads the model and tokenizer files of the Hugging Face folder.

    Raises:
        UserError: it is not such a folder, or the model cannot be converted.
    """
    source = Path(config.input)
    read_model_config(source)
    identity = {"direction": config.direction, "dtype": config.dtype}
    return Stage("convert", Path(config.output), identity, import_files(source))


def convert(config: ConvertConfig, stage: Stage, groups: Groups, report: Callable[[str], None]) -> None:
    """Write OUTPUT/checkpoints/iter_0000000 and OUTPUT/run_config.yaml.

    Args:
        stage: as `open_stage` returns it.
        report: receives a line for each ignored attribute of config.json, and one about the comparison.

    Raises:
        UserError: the weights do not fit config.json.
        ParityError: the two models give different logits.
    """
    source, run = Path(config.input), Path(config.output)
    weights, model = HfWeights(source), read_model_config(source)
    stored = choose_format(weights, config.dtype)
    bf16 = stored == "bfloat16"  # checkpoints are bf16 or fp32; fp32 represents fp16 exactly
    tokenizer = open_model_tokenizer(source, model)
    tokens = parity_tokens(tokenizer, model.max_position_embeddings) if config.parity_check else _NO_TOKENS
    finished = FinishedFiles(run)
    require_space_for_weights(run, model, "bfloat16" if bf16 else "float32", finished)
    stage.start()
    for name, value in unread_attributes(source).items():
        report(f"ignored: {name} = {value} in {source / 'config.json'} has no effect on a {model.family} model")
    core = build_core_model(model, groups, bf16=bf16, seq_length=tokens.shape[1], on_meta=True)
    core, values = stored_in_hf(core, weights), ValueCheck(core.dtype)
    written = PretrainConfig(
        run=str(run), model=model, data=DataConfig(tokenizer=str(source)), precision=PrecisionConfig(bf16=bf16)
    )
    outputs = [run / RUN_CONFIG_NAME]

    def check() -> None:
        values.finish()
        outputs.extend(keep_files(source, run))
        if config.parity_check:
            exact = in_fp32(core, groups, rounded_to=core.dtype, seq_length=tokens.shape[1])
            file, summary = check_parity(exact, source, tokens, groups, config.parity_tolerance, run)
            outputs.append(file)
            report(summary)

    logger.info("writing the checkpoint")
    streamed = StreamedModel(sharded_weights(core.chunk), parts_in_hf(core, weights, values), lambda: values.is_clean)
    outputs.append(save_as_run(streamed, written, Contents(0, 0, []), stage, finished, check) / CONTENTS_NAME)
    # a dtype that was asked for is that of the checkpoint; otherwise an export gives back what was read
    returned = stored if config.dtype is None else "bfloat16" if bf16 else "float32"
    stage.finish(outputs, {"parameters": parameter_count(model), DTYPE_COUNT: returned})
    finished.clear()
