"""What preprocessing, conversion and evaluation are told."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """JSONL or parquet to Megatron's indexed datasets; names are Megatron's own flags."""

    input: list[str] = setting(help="JSONL (.gz, .zst, .bz2, .xz) or parquet files, globs allowed")
    output_prefix: str = setting(help="PREFIX_KEY_document.bin, .idx and .manifest.json are written, into any folder")
    tokenizer_model: str = setting(help="Hugging Face tokenizer folder, or sentencepiece model file")
    tokenizer_type: str = setting(
        "HuggingFaceTokenizer",
        "HuggingFaceTokenizer; or SentencePieceTokenizer (also GPTSentencePieceTokenizer, Llama2Tokenizer), which"
        " writes the Hugging Face folder beside the datasets",
    )
    json_keys: list[str] = setting(
        factory=lambda: ["text"], help="fields to tokenize, one dataset each; outer.inner: a field within one"
    )
    prepend_bod: bool = setting(False, "put the BOS token before each document (the paper's models need it)")
    append_eod: bool = setting(False, "put the EOS token after each document, an empty one too")
    workers: int = setting(0, "tokenizer threads; 0: one per core")
    log_interval: int = setting(1000, "documents between progress lines where there is no terminal")
    bad_input: str = setting(
        "fail", "fail or skip: what to do with a row that cannot be read; a damaged file is always an error"
    )


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Checkpoint to Hugging Face folder, or back."""

    direction: str = setting(help="mcore-to-hf or hf-to-mcore")
    input: str = setting(help="checkpoint folder (run or iter_*), or Hugging Face folder")
    output: str = setting(help="folder to write")
    tokenizer: str | None = setting(None, "mcore-to-hf: tokenizer folder; the run's own when not set")
    dtype: str | None = setting(None, "float32, bfloat16 or float16 weights; as stored when not set")
    parity_check: bool = setting(True, "compare the logits of both models and write parity.json")
    parity_tolerance: float = setting(1e-3, "largest absolute difference of any logit, in fp32")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """lm-evaluation-harness on a Hugging Face folder."""

    model: str = setting(help="Hugging Face model folder, or a name on the hub")
    output: str = setting(help="folder of results.json and the report")
    suite: str = setting("general", "task suite: general is the model card's")
    data_dir: str | None = setting(None, "folder of local task files (TASK.SPLIT.jsonl[.gz]); none: the hub")
    tasks: list[str] | None = setting(None, "only these tasks of the suite")
    limit: int | None = setting(
        None, "only the first questions of each task; of mmlu, as many in all, shared out among its subjects"
    )
    batch_size: str = setting("auto", "a number, or auto: what fits on a GPU, 16 on the CPU")
    dtype: str = setting(
        "auto", "float16, bfloat16 or float32; auto: float16 on a GPU, as on the model card, float32 on the CPU"
    )
    device: str | None = setting(None, "cuda or cpu; the best present when not set")
    run: str | None = setting(None, "training run whose loss curve the report shows")
    seed: int = setting(1234, "seed of the few-shot choice")
