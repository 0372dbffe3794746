"""What the synthesis is told: the engine, the gates its pairs pass, the documents they become."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """A server that speaks OpenAI's completions protocol and takes prompts as token ids."""

    url: str = setting("http://127.0.0.1:8000/v1", "base URL of the server")
    api_key_variable: str = setting("OPENAI_API_KEY", "environment variable that holds the key, where one is needed")
    concurrency: int = setting(64, "requests in flight")
    timeout_seconds: float = setting(300.0, "longest wait for one answer")
    max_retries: int = setting(
        10, "tries after the first where one fails in passing: 408, 409, 429, 5xx, no connection, a cut-off answer"
    )
    max_refused_share: float = setting(
        0.05, "largest share of the prompts that the server may refuse (400, 413, 422); above it nothing is completed"
    )
    requests_per_minute: int | None = setting(None, "most requests a minute; none: as fast as the server answers")


@dataclass(frozen=True, kw_only=True)
class VllmConfig:
    """vLLM in process; on a CPU the memory for keys and values is set by VLLM_CPU_KVCACHE_SPACE, in GiB."""

    tensor_parallel_size: int = setting(1, "GPUs that one copy of the model is shared out among")
    gpu_memory_utilization: float = setting(0.9, "share of the GPU's memory that vLLM may take, above 0 to 1")
    enable_prefix_caching: bool = setting(True, "compute the tokens with which prompts begin once")
    enforce_eager: bool = setting(False, "run without compiling: starts sooner, runs slower")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The language model that writes the pairs."""

    kind: str = setting("transformers", "transformers (runs anywhere), vllm or endpoint")
    model: str = setting(help="Hugging Face model folder or name on the hub; endpoint: the name the server knows")
    tokenizer: str | None = setting(None, "tokenizer folder or name on the hub; the model's own when not set")
    dtype: str = setting("float32", "float32, bfloat16 or float16")
    batch_size: int = setting(16, "transformers: prompts generated together")
    max_model_len: int = setting(4096, "longest prompt plus answer, in tokens")
    max_new_tokens: int = setting(400, "longest answer, in tokens")
    vllm: VllmConfig = setting(factory=VllmConfig)
    endpoint: EndpointConfig = setting(factory=EndpointConfig)


@dataclass(frozen=True, kw_only=True)
class GatesConfig:
    """Which pairs are dropped after parsing; every gate is off until it is given a bound."""

    min_grounded_share: float | None = setting(
        None, "least share of the answer's words that stand in the text, 0 to 1; a chosen option is not asked"
    )
    min_answer_gain: float | None = setting(
        None, "least gain of the text for the answer: log-likelihood per token with the text less that without, in nats"
    )
    min_question_words: int | None = setting(None, "least words of a question")
    max_question_words: int | None = setting(None, "most words of a question, its options apart")
    max_answer_words: int | None = setting(None, "most words of an answer")
    max_repeated_share: float | None = setting(
        None, "largest share of a question's or an answer's three-word sequences that repeat an earlier one, 0 to 1"
    )
    languages: list[str] | None = setting(None, "ISO 639-1 codes a pair may be written in")
    near_duplicate_similarity: float | None = setting(
        None, "drop a pair whose words resemble an earlier pair's of the corpus at least this much (MinHash), 0 to 1"
    )


@dataclass(frozen=True, kw_only=True)
class RephraseConfig:
    """Texts said in other words by the same engine, beside their pairs (not in the paper); off by default."""

    fraction: float = setting(0.0, "share of the texts with pairs that are rephrased too, 0 to 1")
    prompt: str | None = setting(
        None, "YAML of instruction, cue and examples that the engine is given; one of our own when not set"
    )


@dataclass(frozen=True, kw_only=True)
class DecontaminationConfig:
    """Texts and pairs that hold questions of evaluation sets are left out, and listed."""

    eval_files: list[str] = setting(
        factory=list, help="evaluation sets: TASK.SPLIT.jsonl[.gz] files in the tasks' own fields, globs allowed"
    )
    ngram_words: int = setting(13, "words in a row that are compared; a shorter question is compared whole")


@dataclass(frozen=True, kw_only=True)
class ModeWeights:
    """How often a chain is written in each mode, relative to one another."""

    classic: float = setting(80.0, "question and answer after each text")
    dialog: float = setting(5.0, "the pairs as turns of a dialogue")
    numbered: float = setting(5.0, "numbered questions, then numbered answers")
    inline: float = setting(5.0, "few-shot: earlier pairs as worked examples before the last one")
    next_turn: float = setting(5.0, "the text as the first turn of a conversation, the pairs as the next ones")


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """How chains of texts with their pairs become documents (arXiv 2406.14491, released code)."""

    modes: ModeWeights = setting(factory=ModeWeights, help="where every text of the chain has at least two pairs")
    short_modes: ModeWeights = setting(
        factory=lambda: ModeWeights(classic=95.0, dialog=5.0, numbered=0.0, inline=0.0, next_turn=0.0),
        help="where a text of the chain has fewer than two pairs",
    )
    qa_first_fraction: float = setting(0.05, "share of the chains, in every mode, whose pairs stand before the text")
    shuffle_options: bool = setting(True, "shuffle the options of each question, by a seed of its own")
    stitch: bool = setting(False, "join the texts of a chain that come from one document into one (not in the paper)")


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where the work runs; each input file is a task."""

    kind: str = setting("local", "local, slurm or ray (datatrove's executors)")
    workers: int = setting(1, "tasks at the same time; each loads the engine")
    partition: str | None = setting(None, "slurm: partition")
    time: str = setting("24:00:00", "slurm: time limit of a task")
    cpus_per_task: int = setting(1, "slurm, ray: cores of a task")
    gpus_per_task: int = setting(0, "GPUs of a task; local workers share out those of the machine")


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """Raw text to instruction-augmented corpus."""

    input: list[str] = setting(help="raw text: JSONL (.gz, .zst, .bz2, .xz) or parquet files, globs allowed")
    output: str = setting(help="folder of the augmented corpus")
    engine: EngineConfig = setting(help="the language model that writes the pairs")
    text_key: str = setting("text", "field that holds the document")
    id_key: str = setting("id", "field that holds the document's id; FILE:LINE when absent")
    bad_input: str = setting("fail", "fail or skip: what to do with a row that cannot be read")
    examples: str | None = setting(
        None, "JSONL of texts with pairs shown before each text, for a model not tuned as a synthesizer"
    )
    augmented_fraction: float = setting(1.0, "share of the texts that get pairs; the others stay raw text")
    texts_per_chain: int = setting(1, "M: texts whose pairs stand in one document (M-shot)")
    long_texts: str = setting(
        "cut",
        "a text longer than the window: cut (the model reads its beginning) or split (at paragraphs, else"
        " sentences, each piece with pairs of its own)",
    )
    max_texts: int | None = setting(None, "stop after this many texts of each file; none: all")
    gates: GatesConfig = setting(factory=GatesConfig)
    rephrase: RephraseConfig = setting(factory=RephraseConfig)
    decontamination: DecontaminationConfig = setting(factory=DecontaminationConfig)
    render: RenderConfig = setting(factory=RenderConfig)
    executor: ExecutorConfig = setting(factory=ExecutorConfig)
    seed: int = setting(1234, "seed of the choice of texts, of modes, of templates and of options")
