"""From a Hugging Face folder to a checkpoint that a run at any layout can start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from megatron_ipt.checkpointing.contents import Contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME, RUN_CONFIG_NAME
from megatron_ipt.checkpointing.store import CheckpointStore
from megatron_ipt.checkpointing.weights import save_weights
from megatron_ipt.config.loading import save_config
from megatron_ipt.config.pretrain import CheckpointConfig, DataConfig, PrecisionConfig, PretrainConfig
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.core_model import build_core_model, fill_from_hf, in_fp32
from megatron_ipt.conversion.hf_config import read_model_config, unread_attributes
from megatron_ipt.conversion.hf_weights import HfWeights
from megatron_ipt.conversion.parity import check_parity, parity_tokens
from megatron_ipt.conversion.sources import CONFIG_NAME, weight_files
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.tokenization.tokenizer_files import require_tokenizer_files


def open_stage(config: ConvertConfig) -> Stage:
    """Open the stage that reads the model and tokenizer files of the Hugging Face folder.

    Raises:
        UserError: it is not such a folder, or the model cannot be converted.
    """
    source = Path(config.input)
    read_model_config(source)
    inputs = [source / CONFIG_NAME, *weight_files(source), *require_tokenizer_files(source)]
    identity = {"direction": config.direction, "dtype": config.dtype}
    return Stage("convert", Path(config.output), identity, inputs)


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
    tokens = parity_tokens(source, model.max_position_embeddings) if config.parity_check else torch.empty(1, 1)
    stored = config.dtype or str(weights.tensor(min(weights.names)).dtype).removeprefix("torch.")
    bf16 = stored == "bfloat16"  # checkpoints are bf16 or fp32; fp32 represents fp16 exactly
    stage.start()
    for name, value in unread_attributes(source).items():
        report(f"ignored: {name} = {value} in {source / 'config.json'} has no effect on a {model.family} model")
    core = build_core_model(model, groups, bf16=bf16, seq_length=tokens.shape[1])
    fill_from_hf(core, weights)
    outputs = []
    if config.parity_check:
        file, summary = check_parity(
            in_fp32(core, groups, rounded_to=torch.bfloat16, seq_length=tokens.shape[1]) if bf16 else core,
            source,
            tokens,
            groups,
            config.parity_tolerance,
            run,
        )
        outputs.append(file)
        report(summary)
    save_config(
        PretrainConfig(
            run=str(run), model=model, data=DataConfig(tokenizer=str(source)), precision=PrecisionConfig(bf16=bf16)
        ),
        run / RUN_CONFIG_NAME,
    )
    store = CheckpointStore(run, groups, stage.manifest, rule=CheckpointConfig(keep_last=0), log=report)
    checkpoint = store.save(
        Contents(0, 0, []), run / RUN_CONFIG_NAME, lambda folder: save_weights([core.chunk], folder)
    )
    outputs += [run / RUN_CONFIG_NAME, checkpoint / CONTENTS_NAME]
    stage.finish(outputs, {"parameters": sum(parameter.numel() for parameter in core.parameters().values())})
