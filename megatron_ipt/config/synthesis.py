"""Settings for the synthesis: the engine, the gates that filter pairs, and the rendering of documents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_ipt.config.registry import OneOf, Registry
from megatron_ipt.config.settings import DEFAULT_SEED, IdentityUnlessDefault, NotIdentity, Seed, Settings

CUSTOM_GATES = Registry("megatron_ipt.gates", {})
"""Gates of other packages: functions of a text and a pair that return the reason to drop the pair, or None."""

ENGINES = Registry(
    "megatron_ipt.engines",
    {
        "transformers": "megatron_ipt.lm.transformers_engine:TransformersEngine",
        "vllm": "megatron_ipt.lm.vllm_engine:VllmEngine",
        "endpoint": "megatron_ipt.lm.endpoint_engine:EndpointEngine",
    },
)
"""Callables that create a `megatron_ipt.lm.engine.LMEngine` from an `EngineConfig` and a `PromptTokenizer`."""


class EndpointConfig(Settings):
    """A server with OpenAI's completions API that accepts prompts as token ids."""

    url: str = Field("http://127.0.0.1:8000/v1", description="base URL of the server")
    api_key_variable: str = Field(
        "OPENAI_API_KEY", description="environment variable that holds the API key, if one is needed"
    )
    concurrency: int = Field(64, ge=1, description="number of concurrent requests")
    timeout_seconds: float = Field(300.0, gt=0, description="timeout of a request")
    max_retries: int = Field(
        10,
        ge=0,
        description="retries after status 408, 409, 425, 429 or 5xx, a lost connection or a truncated response",
    )
    max_refused_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="maximum share of the prompts that the server may reject (400, 413, 422) before the stage fails",
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="rate limit; not set: as fast as the server responds"
    )


class VllmConfig(Settings):
    """vLLM in this process; on a CPU, VLLM_CPU_KVCACHE_SPACE sets the size of the KV cache in GiB."""

    tensor_parallel_size: int = Field(1, ge=1, description="GPUs per replica of the model")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of GPU memory that vLLM may use")
    enable_prefix_caching: bool = Field(True, description="compute common prefixes of prompts once")
    enforce_eager: bool = Field(False, description="disable compilation: faster start, slower generation")


class EngineConfig(Settings):
    """The language model that generates the pairs."""

    kind: Annotated[str, OneOf(ENGINES)] = Field("transformers", description="transformers runs anywhere")
    model: str = Field(
        description="Hugging Face model folder or name on the hub; endpoint: the model name of the server"
    )
    tokenizer: str | None = Field(None, description="tokenizer folder or name on the hub; that of the model if not set")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="number format of the weights")
    batch_size: int = Field(16, ge=1, description="transformers: prompts per batch")
    max_model_len: int = Field(4096, ge=1, description="maximum length of prompt and completion, in tokens")
    max_new_tokens: int = Field(400, ge=1, description="maximum length of a completion, in tokens")
    vllm: Annotated[VllmConfig, NotIdentity] = Field(default_factory=VllmConfig)
    endpoint: Annotated[EndpointConfig, NotIdentity] = Field(default_factory=EndpointConfig)


class GatesConfig(Settings):
    """Filters on the parsed pairs; a gate is off unless it is set."""

    min_grounded_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="minimum share of the words of an answer that occur in the text; not applied to multiple choice",
    )
    min_answer_gain: float | None = Field(
        None,
        description="minimum gain in log-likelihood per token of the answer from having the text, in nats",
    )
    min_question_words: int | None = Field(None, ge=0, description="minimum number of words of a question")
    max_question_words: int | None = Field(
        None, ge=1, description="maximum number of words of a question, without its options"
    )
    max_answer_words: int | None = Field(None, ge=1, description="maximum number of words of an answer")
    max_repeated_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="maximum share of repeated word 3-grams within a question or an answer",
    )
    languages: list[str] | None = Field(
        None, min_length=1, description="accepted languages of a pair, as ISO 639-1 codes"
    )
    custom: Annotated[list[str], IdentityUnlessDefault] = Field(
        default_factory=list,
        description="gates of other installed packages, by their names in the entry point group megatron_ipt.gates",
    )
    near_duplicate_similarity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="drop a pair if its similarity to an earlier pair of the corpus is at least this (MinHash)",
    )


class RephraseConfig(Settings):
    """Rephrasing of texts by the same engine, in addition to their pairs (not in the paper); off by default."""

    fraction: float = Field(0.0, ge=0, le=1, description="share of the texts with pairs that are rephrased as well")
    prompt: str | None = Field(
        None, description="YAML file with instruction, cue and examples of the prompt; a built-in one if not set"
    )


class DecontaminationConfig(Settings):
    """Removal of texts and pairs that contain questions of evaluation sets; they are listed in a file."""

    eval_files: list[str] = Field(
        [], description="evaluation sets: TASK.SPLIT.jsonl[.gz] files with the fields of the task, globs allowed"
    )
    ngram_words: int = Field(13, ge=5, description="n-gram size in words; a shorter question is matched as a whole")


class ModeWeights(Settings):
    """Relative frequencies of the rendering modes."""

    classic: float = Field(80.0, ge=0, description="question and answer after each text")
    dialog: float = Field(5.0, ge=0, description="pairs as turns of a dialogue")
    numbered: float = Field(5.0, ge=0, description="numbered questions, then numbered answers")
    inline: float = Field(5.0, ge=0, description="earlier pairs as few-shot examples for the last one")
    next_turn: float = Field(
        5.0, ge=0, description="the text as the first turn of a conversation, the pairs as the following turns"
    )


class RenderConfig(Settings):
    """How chains of texts with their pairs become documents (arXiv 2406.14491, released code)."""

    modes: ModeWeights = Field(
        default_factory=ModeWeights, description="if every text of the chain has at least two pairs"
    )
    short_modes: ModeWeights = Field(
        default_factory=lambda: ModeWeights(classic=95.0, dialog=5.0, numbered=0.0, inline=0.0, next_turn=0.0),
        description="if a text of the chain has fewer than two pairs",
    )
    qa_first_fraction: float = Field(
        0.05, ge=0, le=1, description="share of the chains, in every mode, with the pairs before the text"
    )
    shuffle_options: bool = Field(True, description="shuffle the options of each question")
    stitch: bool = Field(
        False,
        description="concatenate consecutive texts of a chain that come from the same document (not in the paper)",
    )


class ExecutorConfig(Settings):
    """Where the work runs; each input file is a task."""

    kind: Literal["local", "slurm", "ray"] = Field("local", description="slurm and ray are datatrove's executors")
    workers: int = Field(1, ge=1, description="concurrent tasks, each with its own engine")
    partition: str | None = Field(None, description="slurm: partition")
    time: str = Field("24:00:00", description="slurm: time limit of a task")
    cpus_per_task: int = Field(1, ge=1, description="slurm, ray: CPU cores per task")
    gpus_per_task: int = Field(0, ge=0, description="GPUs per task; local workers are assigned those of the machine")


class SynthesizeConfig(Settings):
    """Synthesis of an instruction-augmented corpus from raw text."""

    input: Annotated[list[str], NotIdentity] = Field(
        description="raw text: JSONL (.gz, .zst, .bz2, .xz) or parquet files, globs allowed"
    )
    output: Annotated[str, NotIdentity] = Field(description="folder for the augmented corpus")
    engine: EngineConfig = Field(description="the language model that generates the pairs")
    text_key: str = Field("text", description="field with the document")
    id_key: str = Field("id", description="field with the id of the document; FILE:LINE if absent")
    bad_input: Literal["fail", "skip"] = Field("fail", description="response to a row that cannot be read")
    examples: Annotated[str | None, NotIdentity] = Field(
        None, description="JSONL file of few-shot examples, for a model that was not tuned as a synthesizer"
    )
    augmented_fraction: float = Field(
        1.0, ge=0, le=1, description="share of the texts that get pairs; the others remain raw text"
    )
    texts_per_chain: int = Field(1, ge=1, description="M: texts per document, with their pairs (M-shot)")
    long_texts: Literal["cut", "split"] = Field(
        "cut",
        description="a text longer than the context window: cut: use its beginning; split: divide it at paragraphs or"
        " sentences, with pairs for each piece",
    )
    max_texts: int | None = Field(None, ge=1, description="maximum number of texts per file, from its start")
    gates: GatesConfig = Field(default_factory=GatesConfig)
    rephrase: RephraseConfig = Field(default_factory=RephraseConfig)
    decontamination: DecontaminationConfig = Field(default_factory=DecontaminationConfig)
    render: RenderConfig = Field(default_factory=RenderConfig)
    executor: Annotated[ExecutorConfig, NotIdentity] = Field(default_factory=ExecutorConfig)
    seed: Seed = Field(DEFAULT_SEED, description="seed of the choice of texts, modes, templates and order of options")
