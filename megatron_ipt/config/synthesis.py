"""What the synthesis is told: the engine, the gates its pairs pass, the documents they become."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_ipt.config.settings import NotIdentity, Settings


class EndpointConfig(Settings):
    """A server that speaks OpenAI's completions protocol and takes prompts as token ids."""

    url: str = Field("http://127.0.0.1:8000/v1", description="base URL of the server")
    api_key_variable: str = Field(
        "OPENAI_API_KEY", description="environment variable that holds the key, where one is needed"
    )
    concurrency: int = Field(64, ge=1, description="requests in flight")
    timeout_seconds: float = Field(300.0, gt=0, description="longest wait for one answer")
    max_retries: int = Field(
        10,
        ge=0,
        description="tries after the first where one fails in passing: 408, 409, 429, 5xx, no connection, a cut-off answer",
    )
    max_refused_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest share of the prompts that the server may refuse (400, 413, 422); above it nothing is completed",
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="most requests a minute; none: as fast as the server answers"
    )


class VllmConfig(Settings):
    """vLLM in process; on a CPU the memory for keys and values is set by VLLM_CPU_KVCACHE_SPACE, in GiB."""

    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that one copy of the model is shared out among")
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of the GPU's memory that vLLM may take, above 0 to 1"
    )
    enable_prefix_caching: bool = Field(True, description="compute the tokens with which prompts begin once")
    enforce_eager: bool = Field(False, description="run without compiling: starts sooner, runs slower")


class EngineConfig(Settings):
    """The language model that writes the pairs."""

    kind: Literal["transformers", "vllm", "endpoint"] = Field(
        "transformers", description="transformers (runs anywhere), vllm or endpoint"
    )
    model: str = Field(description="Hugging Face model folder or name on the hub; endpoint: the name the server knows")
    tokenizer: str | None = Field(None, description="tokenizer folder or name on the hub; the model's own when not set")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="float32, bfloat16 or float16")
    batch_size: int = Field(16, ge=1, description="transformers: prompts generated together")
    max_model_len: int = Field(4096, ge=1, description="longest prompt plus answer, in tokens")
    max_new_tokens: int = Field(400, ge=1, description="longest answer, in tokens")
    vllm: Annotated[VllmConfig, NotIdentity] = Field(default_factory=VllmConfig)
    endpoint: Annotated[EndpointConfig, NotIdentity] = Field(default_factory=EndpointConfig)


class GatesConfig(Settings):
    """Which pairs are dropped after parsing; every gate is off until it is given a bound."""

    min_grounded_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="least share of the answer's words that stand in the text, 0 to 1; a chosen option is not asked",
    )
    min_answer_gain: float | None = Field(
        None,
        description="least gain of the text for the answer: log-likelihood per token with the text less that without, in nats",
    )
    min_question_words: int | None = Field(None, ge=0, description="least words of a question")
    max_question_words: int | None = Field(None, ge=1, description="most words of a question, its options apart")
    max_answer_words: int | None = Field(None, ge=1, description="most words of an answer")
    max_repeated_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="largest share of a question's or an answer's three-word sequences that repeat an earlier one, 0 to 1",
    )
    languages: list[str] | None = Field(None, description="ISO 639-1 codes a pair may be written in")
    near_duplicate_similarity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="drop a pair whose words resemble an earlier pair's of the corpus at least this much (MinHash), 0 to 1",
    )


class RephraseConfig(Settings):
    """Texts said in other words by the same engine, beside their pairs (not in the paper); off by default."""

    fraction: float = Field(0.0, ge=0, le=1, description="share of the texts with pairs that are rephrased too, 0 to 1")
    prompt: str | None = Field(
        None, description="YAML of instruction, cue and examples that the engine is given; one of our own when not set"
    )


class DecontaminationConfig(Settings):
    """Texts and pairs that hold questions of evaluation sets are left out, and listed."""

    eval_files: list[str] = Field(
        [], description="evaluation sets: TASK.SPLIT.jsonl[.gz] files in the tasks' own fields, globs allowed"
    )
    ngram_words: int = Field(
        13, ge=1, description="words in a row that are compared; a shorter question is compared whole"
    )


class ModeWeights(Settings):
    """How often a chain is written in each mode, relative to one another."""

    classic: float = Field(80.0, ge=0, description="question and answer after each text")
    dialog: float = Field(5.0, ge=0, description="the pairs as turns of a dialogue")
    numbered: float = Field(5.0, ge=0, description="numbered questions, then numbered answers")
    inline: float = Field(5.0, ge=0, description="few-shot: earlier pairs as worked examples before the last one")
    next_turn: float = Field(
        5.0, ge=0, description="the text as the first turn of a conversation, the pairs as the next ones"
    )


class RenderConfig(Settings):
    """How chains of texts with their pairs become documents (arXiv 2406.14491, released code)."""

    modes: ModeWeights = Field(
        default_factory=ModeWeights, description="where every text of the chain has at least two pairs"
    )
    short_modes: ModeWeights = Field(
        default_factory=lambda: ModeWeights(classic=95.0, dialog=5.0, numbered=0.0, inline=0.0, next_turn=0.0),
        description="where a text of the chain has fewer than two pairs",
    )
    qa_first_fraction: float = Field(
        0.05, ge=0, le=1, description="share of the chains, in every mode, whose pairs stand before the text"
    )
    shuffle_options: bool = Field(True, description="shuffle the options of each question, by a seed of its own")
    stitch: bool = Field(
        False, description="join the texts of a chain that come from one document into one (not in the paper)"
    )


class ExecutorConfig(Settings):
    """Where the work runs; each input file is a task."""

    kind: Literal["local", "slurm", "ray"] = Field("local", description="local, slurm or ray (datatrove's executors)")
    workers: int = Field(1, ge=1, description="tasks at the same time; each loads the engine")
    partition: str | None = Field(None, description="slurm: partition")
    time: str = Field("24:00:00", description="slurm: time limit of a task")
    cpus_per_task: int = Field(1, ge=1, description="slurm, ray: cores of a task")
    gpus_per_task: int = Field(0, ge=0, description="GPUs of a task; local workers share out those of the machine")


class SynthesizeConfig(Settings):
    """Raw text to instruction-augmented corpus."""

    input: Annotated[list[str], NotIdentity] = Field(
        description="raw text: JSONL (.gz, .zst, .bz2, .xz) or parquet files, globs allowed"
    )
    output: Annotated[str, NotIdentity] = Field(description="folder of the augmented corpus")
    engine: EngineConfig = Field(description="the language model that writes the pairs")
    text_key: str = Field("text", description="field that holds the document")
    id_key: str = Field("id", description="field that holds the document's id; FILE:LINE when absent")
    bad_input: Literal["fail", "skip"] = Field(
        "fail", description="fail or skip: what to do with a row that cannot be read"
    )
    examples: Annotated[str | None, NotIdentity] = Field(
        None, description="JSONL of texts with pairs shown before each text, for a model not tuned as a synthesizer"
    )
    augmented_fraction: float = Field(
        1.0, ge=0, le=1, description="share of the texts that get pairs; the others stay raw text"
    )
    texts_per_chain: int = Field(1, ge=1, description="M: texts whose pairs stand in one document (M-shot)")
    long_texts: Literal["cut", "split"] = Field(
        "cut",
        description="a text longer than the window: cut (the model reads its beginning) or split (at paragraphs, else"
        " sentences, each piece with pairs of its own)",
    )
    max_texts: int | None = Field(None, ge=1, description="stop after this many texts of each file; none: all")
    gates: GatesConfig = Field(default_factory=GatesConfig)
    rephrase: RephraseConfig = Field(default_factory=RephraseConfig)
    decontamination: DecontaminationConfig = Field(default_factory=DecontaminationConfig)
    render: RenderConfig = Field(default_factory=RenderConfig)
    executor: Annotated[ExecutorConfig, NotIdentity] = Field(default_factory=ExecutorConfig)
    seed: int = Field(
        1234, ge=0, le=2**31 - 1, description="seed of the choice of texts, of modes, of templates and of options"
    )
