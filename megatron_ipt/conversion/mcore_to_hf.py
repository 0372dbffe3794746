"""From a checkpoint to a Hugging Face folder that AutoModelForCausalLM and AutoTokenizer load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_ipt.checkpointing.contents import find_damage, read_contents
from megatron_ipt.checkpointing.layout import CONTENTS_NAME
from megatron_ipt.checkpointing.weights import load_weights
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.core_model import build_core_model, hf_tensors, in_fp32
from megatron_ipt.conversion.dtypes import DTYPES
from megatron_ipt.conversion.hf_config import write_hf_config
from megatron_ipt.conversion.hf_weights import write_weights
from megatron_ipt.conversion.parity import check_parity, parity_tokens
from megatron_ipt.conversion.sources import ExportSource, find_export_source
from megatron_ipt.conversion.tokenizer_export import export_tokenizer
from megatron_ipt.conversion.trained_documents import documents_begin_with_bos
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.tokenization.tokenizer_files import require_tokenizer_files
from megatron_ipt.tokenization.transformers_tokenizer import open_tokenizer


def open_stage(config: ConvertConfig) -> Stage:
    """Open the stage that reads the checkpoint, by the file that lists its contents, and the tokenizer.

    Raises:
        UserError: there is no complete checkpoint, or the model cannot be exported.
    """
    source = find_export_source(config)
    inputs = [source.checkpoint / CONTENTS_NAME, *require_tokenizer_files(source.tokenizer)]
    identity = {"direction": config.direction, "dtype": source.dtype_name}
    return Stage("convert", Path(config.output), identity, inputs)


def convert(config: ConvertConfig, stage: Stage, groups: Groups, report: Callable[[str], None]) -> None:
    """Write configuration, tokenizer and weights, and compare token ids and logits with those of the checkpoint.

    Args:
        stage: as `open_stage` returns it.
        report: receives a line about the comparison.

    Raises:
        UserError: the checkpoint is damaged or unsafe, or the tokenizer does not fit the model or its training data.
        ParityError: the two models give different logits.
    """
    source, output = find_export_source(config), Path(config.output)
    model, dtype = source.run.model, DTYPES[source.dtype_name]
    _check_integrity(source.checkpoint)
    tokenizer = _load_tokenizer(source)
    adds_bos = documents_begin_with_bos(source.checkpoint, source.tokenizer)
    tokens = parity_tokens(source.tokenizer, model.max_position_embeddings)
    core = build_core_model(model, groups, bf16=source.run.precision.bf16, seq_length=tokens.shape[1])
    load_weights([core.chunk], source.checkpoint)
    stage.start()
    outputs = write_hf_config(output, model, dtype, bos_id=tokenizer.bos_token_id, eos_id=tokenizer.eos_token_id)
    tokenizer_outputs, compared = export_tokenizer(tokenizer, output, adds_bos=adds_bos)
    outputs += [*tokenizer_outputs, *write_weights(output, hf_tensors(core, dtype))]
    if config.parity_check:
        exact = in_fp32(core, groups, rounded_to=dtype, seq_length=tokens.shape[1])
        file, summary = check_parity(exact, output, tokens, groups, config.parity_tolerance, output)
        outputs.append(file)
        report(summary)
    parameters = sum(parameter.numel() for parameter in core.parameters().values())
    stage.finish(outputs, {"parameters": parameters, "tokenizer": compared})


def _check_integrity(checkpoint: Path) -> None:
    try:
        damage = find_damage(checkpoint, read_contents(checkpoint).files)
    except ValueError as error:
        damage = str(error)
    if damage is not None:
        raise UserError("input", checkpoint, f"the checkpoint is damaged: {damage}", "name another one of the run")


def _load_tokenizer(source: ExportSource) -> PreTrainedTokenizerBase:
    tokenizer = open_tokenizer(source.tokenizer)
    if len(tokenizer) > source.run.model.vocab_size:
        raise UserError(
            "tokenizer",
            source.tokenizer,
            f"it has {len(tokenizer)} entries, the model {source.run.model.vocab_size}",
            "name the tokenizer that the model was trained with",
        )
    return tokenizer
