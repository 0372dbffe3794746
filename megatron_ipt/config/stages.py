"""Settings of preprocessing, conversion and averaging."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_ipt.config.settings import NotIdentity, Settings


class PreprocessConfig(Settings):
    """Tokenization of JSONL or parquet files into Megatron's indexed datasets; names are those of Megatron's flags."""

    input: list[str] = Field(description="JSONL (.gz, .zst, .bz2, .xz) or parquet files, globs allowed")
    output_prefix: str = Field(
        description="prefix of the datasets: PREFIX_KEY_document.bin, .idx and .manifest.json are written"
    )
    tokenizer_model: str = Field(description="Hugging Face tokenizer folder, or sentencepiece model file")
    tokenizer_type: Literal[
        "HuggingFaceTokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer", "Llama2Tokenizer"
    ] = Field(
        "HuggingFaceTokenizer",
        description="the sentencepiece types are synonyms; they write a Hugging Face folder next to the datasets",
    )
    json_keys: list[str] = Field(
        ["text"], description="fields to tokenize, one dataset per field; outer.inner names a nested field"
    )
    prepend_bod: bool = Field(False, description="put the BOS token before each document (the paper's models need it)")
    append_eod: bool = Field(False, description="put the EOS token after each document, including empty ones")
    workers: Annotated[int, NotIdentity] = Field(0, ge=0, description="tokenizer threads; 0: one per core")
    log_interval: Annotated[int, NotIdentity] = Field(
        1000, ge=1, description="documents between progress lines if the output is not a terminal"
    )
    bad_input: Literal["fail", "skip"] = Field(
        "fail", description="response to a row that cannot be read; a damaged file is always an error"
    )


class ConvertConfig(Settings):
    """Conversion of a checkpoint to a Hugging Face folder or to Megatron-LM's checkpoint, or back."""

    direction: Literal["mcore-to-hf", "hf-to-mcore", "mlm-to-mcore", "mcore-to-mlm"] = Field(
        description="from a checkpoint (mcore) to a Hugging Face folder (hf) or to a checkpoint of Megatron-LM (mlm), "
        "or back"
    )
    input: Annotated[str, NotIdentity] = Field(
        description="checkpoint folder (run or iter_*, Megatron-LM's as well), or Hugging Face folder"
    )
    output: Annotated[str, NotIdentity] = Field(description="folder to write")
    tokenizer: Annotated[str | None, NotIdentity] = Field(
        None,
        description="mcore-to-hf: tokenizer folder to include; that of the run if not set. mlm-to-mcore: tokenizer of"
        " the model; Megatron-LM's --tokenizer-model if not set",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="format of the written weights; that of the source if not set"
    )
    parity_check: Annotated[bool, NotIdentity] = Field(
        True, description="compare the logits of both models and write parity.json"
    )
    parity_tolerance: Annotated[float, NotIdentity] = Field(
        1e-3, ge=0, description="maximum absolute difference of any logit, in fp32"
    )
    push: Annotated[str | None, NotIdentity] = Field(
        None,
        description="mcore-to-hf: repository on the Hugging Face Hub, OWNER/NAME, to upload the result to; needs a"
        " token in HF_TOKEN",
    )
    scores: Annotated[list[str], NotIdentity] = Field(
        default_factory=list, description="push: output folders of evaluations of the result, for its model card"
    )


class AverageConfig(Settings):
    """Averaging of the weights of several checkpoints of a run."""

    input: Annotated[str, NotIdentity] = Field(description="training run")
    output: Annotated[str, NotIdentity] = Field(
        description="folder to write: a run with one checkpoint, of weights only"
    )
    last: int = Field(5, ge=2, description="number of newest checkpoints to average; the run must have kept them")
