"""Settings for evaluation, for suites of tasks, and for scoring the checkpoints of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from megatron_ipt.config.settings import DEFAULT_SEED, IdentityUnlessDefault, NotIdentity, Seed, Settings


class LocalFilesConfig(Settings):
    """Local files from which a task of lm-evaluation-harness can be read instead of from the hub."""

    definition: str = Field(description="YAML of the task, relative to lm_eval/tasks")
    fields: list[str] = Field(description="fields of a row that the task reads")
    evaluated_splits: list[str] = Field(["validation"], description="the first of these that exists is evaluated")
    fewshot_splits: list[str] = Field(
        ["train", "validation", "test"], description="the first of these that exists supplies the few-shot examples"
    )
    file_stems: list[str] = Field([], description="accepted beginnings of file names; the name of the task if not set")
    is_by_subject: bool = Field(False, description="whether one file holds the rows of all subjects, as for mmlu")


class SuiteTaskConfig(Settings):
    """A task of lm-evaluation-harness as a suite uses it."""

    task: str = Field(description="a task, group or tag of lm-evaluation-harness, or of a folder in `include_path`")
    num_fewshot: int | None = Field(None, ge=0, description="number of few-shot examples; that of the task if not set")
    chance: float | None = Field(None, ge=0, le=1, description="score of random guessing; unknown if not set")
    metric: str | None = Field(
        None, description="metric in tables and averages; acc_norm, acc or the task's first metric if not set"
    )
    local: LocalFilesConfig | None = Field(None, description="how the task is read from files in `data_dir`")


class SuiteConfig(Settings):
    """A suite of tasks that are scored together."""

    tasks: list[SuiteTaskConfig] = Field(min_length=1, description="the tasks, in the order of the tables")
    include_path: list[str] = Field([], description="folders with task YAMLs, relative to the file of the suite")


class EvaluationSettings(Settings):
    """The tasks of an evaluation, and how the model is run on them."""

    suite: str = Field("general", description="general, biomedicine, finance, context_qa, or your own YAML file")
    data_dir: str | None = Field(
        None, description="folder of local task files (TASK.SPLIT.jsonl[.gz]); downloaded from the hub if not set"
    )
    tasks: list[str] | None = Field(
        None, description="tasks of the suite, or any tasks, groups or tags of lm-evaluation-harness, to run instead"
    )
    include_path: Annotated[list[str], IdentityUnlessDefault] = Field(
        [], description="folders with your own task YAMLs"
    )
    num_fewshot: Annotated[int | None, IdentityUnlessDefault] = Field(
        None, ge=0, description="number of few-shot examples for all tasks; those of the suite if not set"
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="maximum number of questions per task, from the start; for mmlu, of all subjects together",
    )
    backend: Annotated[Literal["hf", "vllm"], IdentityUnlessDefault] = Field(
        "hf", description="lm-evaluation-harness backend: hf (transformers) or vllm"
    )
    model_args: Annotated[dict[str, Any], IdentityUnlessDefault] = Field(
        {}, description="further arguments of the backend: parallelize, tensor_parallel_size, max_length, ..."
    )
    batch_size: str = Field("auto", description="a number; or auto: the largest that fits on a GPU, 16 on a CPU")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto",
        description="number format of the model; auto: float16 on a GPU (as on the model card), float32 on a CPU",
    )
    device: str | None = Field(None, description="cuda or cpu; cuda, if available, if not set")
    add_bos_token: Annotated[bool, IdentityUnlessDefault] = Field(
        True, description="put BOS before every prompt, as in training; a chat template determines this itself"
    )
    apply_chat_template: Annotated[bool, IdentityUnlessDefault] = Field(
        False, description="apply the chat template of the model's tokenizer to prompts"
    )
    fewshot_as_multiturn: Annotated[bool, IdentityUnlessDefault] = Field(
        True, description="with a chat template: give few-shot examples as turns of a conversation, not as one message"
    )
    system_instruction: Annotated[str | None, IdentityUnlessDefault] = Field(
        None, description="text before every prompt; with a chat template, the system message"
    )
    gen_kwargs: Annotated[dict[str, Any], IdentityUnlessDefault] = Field(
        {"do_sample": False}, description="generation settings that override those of the tasks; {}: override none"
    )
    confirm_run_unsafe_code: Annotated[bool, IdentityUnlessDefault] = Field(
        False, description="allow tasks that execute code written by the model"
    )
    run: str | None = Field(None, description="training run whose loss curve the report includes")
    seed: Seed = Field(DEFAULT_SEED, description="seed of few-shot sampling")


class EvaluateConfig(EvaluationSettings):
    """Evaluation of a Hugging Face model with lm-evaluation-harness."""

    model: str = Field(description="Hugging Face model folder, or a name on the hub")
    output: Annotated[str, NotIdentity] = Field(description="folder for results.json and the report")


class TrendConfig(Settings):
    """Conversion and scoring of the checkpoints of a training run, also while it is running."""

    run: str = Field(description="folder of the training run")
    output: str = Field(description="folder for scores.jsonl and the evaluation of each checkpoint, iter_0000100/, ...")
    every: int = Field(1, ge=1, description="score only checkpoints whose iteration is a multiple of this")
    follow: bool = Field(True, description="wait for further checkpoints until the run has finished")
    poll_seconds: float = Field(60.0, gt=0, description="interval between checks for new checkpoints, in seconds")
    keep_models: bool = Field(False, description="keep the Hugging Face folder of each checkpoint")
    evaluation: EvaluationSettings = Field(
        default_factory=EvaluationSettings, description="evaluation of each checkpoint, as for evaluate"
    )
