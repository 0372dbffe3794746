"""From a checkpoint to a Hugging Face folder that AutoModelForCausalLM and AutoTokenizer load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from megatron_ipt.checkpointing.layout import CONTENTS_NAME
from megatron_ipt.checkpointing.weights import StoredWeights
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.carried import copy_files, find_carried
from megatron_ipt.conversion.core_model import build_core_model, hf_tensors, in_fp32
from megatron_ipt.conversion.disk_space import require_space_for_weights
from megatron_ipt.conversion.dtypes import DTYPES
from megatron_ipt.conversion.hf_config import (
    add_end_ids,
    end_generation_at,
    write_generation_config,
    write_hf_config,
)
from megatron_ipt.conversion.hf_shards import write_weights
from megatron_ipt.conversion.integrity import check_integrity
from megatron_ipt.conversion.model_card import is_trained, write_model_card
from megatron_ipt.conversion.model_tokenizer import open_model_tokenizer, parity_tokens
from megatron_ipt.conversion.parity import check_parity
from megatron_ipt.conversion.sources import ExportSource, find_export_source
from megatron_ipt.conversion.trained_documents import documents_begin_with_bos, find_chat_format
from megatron_ipt.corpus.finished_files import FinishedFiles
from megatron_ipt.corpus.manifest import Stage
from megatron_ipt.errors import UserError
from megatron_ipt.models.accounting import parameter_count
from megatron_ipt.observability.progress import ProgressDisplay
from megatron_ipt.parallel.groups import Groups
from megatron_ipt.tokenization.tokenizer_export import export_tokenizer
from megatron_ipt.tokenization.tokenizer_files import require_tokenizer_files

logger = logging.getLogger(__name__)


def open_stage(config: ConvertConfig) -> Stage:
    """Open the stage that reads the checkpoint, by the file that lists its contents, and the tokenizer.

    Raises:
        UserError: there is no complete checkpoint, or the model cannot be exported.
    """
    source = find_export_source(config)
    carried = find_carried(source)
    inputs = [source.checkpoint / CONTENTS_NAME, *require_tokenizer_files(source.tokenizer)]
    inputs += carried.inputs if carried is not None else []
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
    tokenizer = open_model_tokenizer(source.tokenizer, model)
    tokens = parity_tokens(tokenizer, model.max_position_embeddings)
    core = build_core_model(model, groups, bf16=source.run.precision.bf16, seq_length=tokens.shape[1], on_meta=True)
    finished = FinishedFiles(output)
    require_space_for_weights(output, model, source.dtype_name, finished)
    check_integrity(source.checkpoint)
    adds_bos = documents_begin_with_bos(source.checkpoint, source.tokenizer)
    chat = find_chat_format(source.checkpoint, tokenizer.chat_template)
    if chat is not None:
        tokenizer.chat_template = chat.template
    core = replace(core, stored=StoredWeights(core.chunk, source.checkpoint).read)
    stage.start()
    files = _write_configuration(source, output, tokenizer, chat.turn_end_ids if chat is not None else [])
    tokenizer_files, compared = export_tokenizer(tokenizer, output, adds_bos=adds_bos)
    files += tokenizer_files
    logger.info("converting the weights")
    with ProgressDisplay("writing weights", "tensors") as progress, _leaving_nothing(stage, files):
        records = write_weights(output, hf_tensors(core, dtype), finished, progress=progress)
    if config.parity_check:
        exact = in_fp32(core, groups, rounded_to=dtype, seq_length=tokens.shape[1])
        file, summary = check_parity(exact, output, tokens, groups, config.parity_tolerance, output)
        files.append(file)
        report(summary)
    stage.finish([*files, *records], {"parameters": parameter_count(model), "tokenizer": compared})
    finished.clear()


@contextmanager
def _leaving_nothing(stage: Stage, files: list[Path]) -> Iterator[None]:
    """After a UserError remove what was written, so that the same output can be asked for in another number format."""
    try:
        yield
    except UserError:
        for file in files:
            file.unlink(missing_ok=True)
        stage.abandon()
        raise


def _write_configuration(
    source: ExportSource, output: Path, tokenizer: PreTrainedTokenizerFast, turn_end_ids: list[int]
) -> list[Path]:
    """Write config.json and generation_config.json, and whatever else the weights bring along.

    Args:
        source: of the model.
        output: the folder.
        tokenizer: of the model, which names BOS and EOS where the weights bring no names along.
        turn_end_ids: tokens besides EOS at which a generated answer ends.
    """
    carried = find_carried(source)
    token_ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    token_ids |= carried.token_ids if carried is not None else {}
    token_ids["eos_token_id"] = add_end_ids(token_ids["eos_token_id"], turn_end_ids)
    files = [write_hf_config(output, source.run.model, DTYPES[source.dtype_name], token_ids)]
    files += copy_files(carried.files, output) if carried is not None else []
    if carried is None or not carried.has_generation_settings:
        files.append(write_generation_config(output, token_ids))
    else:
        end_generation_at(output, turn_end_ids)
    if is_trained(source):
        files.append(write_model_card(output, source, carried))
    return files
