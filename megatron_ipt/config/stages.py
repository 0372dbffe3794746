"""What preprocessing, conversion and evaluation are told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_ipt.config.settings import NotIdentity, Settings


class PreprocessConfig(Settings):
    """JSONL or parquet to Megatron's indexed datasets; names are Megatron's own flags."""

    input: list[str] = Field(description="JSONL (.gz, .zst, .bz2, .xz) or parquet files, globs allowed")
    output_prefix: str = Field(
        description="PREFIX_KEY_document.bin, .idx and .manifest.json are written, into any folder"
    )
    tokenizer_model: str = Field(description="Hugging Face tokenizer folder, or sentencepiece model file")
    tokenizer_type: Literal[
        "HuggingFaceTokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer", "Llama2Tokenizer"
    ] = Field(
        "HuggingFaceTokenizer",
        description="HuggingFaceTokenizer; or SentencePieceTokenizer (also GPTSentencePieceTokenizer, Llama2Tokenizer), which"
        " writes the Hugging Face folder beside the datasets",
    )
    json_keys: list[str] = Field(
        ["text"], description="fields to tokenize, one dataset each; outer.inner: a field within one"
    )
    prepend_bod: bool = Field(False, description="put the BOS token before each document (the paper's models need it)")
    append_eod: bool = Field(False, description="put the EOS token after each document, an empty one too")
    workers: Annotated[int, NotIdentity] = Field(0, ge=0, description="tokenizer threads; 0: one per core")
    log_interval: Annotated[int, NotIdentity] = Field(
        1000, ge=1, description="documents between progress lines where there is no terminal"
    )
    bad_input: Literal["fail", "skip"] = Field(
        "fail", description="fail or skip: what to do with a row that cannot be read; a damaged file is always an error"
    )


class ConvertConfig(Settings):
    """Checkpoint to Hugging Face folder, or back."""

    direction: Literal["mcore-to-hf", "hf-to-mcore"] = Field(description="mcore-to-hf or hf-to-mcore")
    input: Annotated[str, NotIdentity] = Field(description="checkpoint folder (run or iter_*), or Hugging Face folder")
    output: Annotated[str, NotIdentity] = Field(description="folder to write")
    tokenizer: Annotated[str | None, NotIdentity] = Field(
        None, description="mcore-to-hf: tokenizer folder; the run's own when not set"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="float32, bfloat16 or float16 weights; as stored when not set"
    )
    parity_check: Annotated[bool, NotIdentity] = Field(
        True, description="compare the logits of both models and write parity.json"
    )
    parity_tolerance: Annotated[float, NotIdentity] = Field(
        1e-3, ge=0, description="largest absolute difference of any logit, in fp32"
    )


class EvaluateConfig(Settings):
    """lm-evaluation-harness on a Hugging Face folder."""

    model: str = Field(description="Hugging Face model folder, or a name on the hub")
    output: Annotated[str, NotIdentity] = Field(description="folder of results.json and the report")
    suite: str = Field("general", description="task suite: general is the model card's")
    data_dir: str | None = Field(None, description="folder of local task files (TASK.SPLIT.jsonl[.gz]); none: the hub")
    tasks: list[str] | None = Field(None, description="only these tasks of the suite")
    limit: int | None = Field(
        None,
        ge=1,
        description="only the first questions of each task; of mmlu, as many in all, shared out among its subjects",
    )
    batch_size: str = Field("auto", description="a number, or auto: what fits on a GPU, 16 on the CPU")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto",
        description="float16, bfloat16 or float32; auto: float16 on a GPU, as on the model card, float32 on the CPU",
    )
    device: str | None = Field(None, description="cuda or cpu; the best present when not set")
    run: str | None = Field(None, description="training run whose loss curve the report shows")
    seed: int = Field(1234, ge=0, le=2**31 - 1, description="seed of the few-shot choice")
