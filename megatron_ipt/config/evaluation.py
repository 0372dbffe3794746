"""Settings of evaluation, of suites of tasks, and of scoring the checkpoints of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from megatron_ipt.config.settings import IdentityUnlessDefault, NotIdentity, Settings


class LocalFilesConfig(Settings):
    """The files that a task of lm-evaluation-harness can be read from instead of the hub."""

    definition: str = Field(description="the task's YAML below lm_eval/tasks")
    fields: list[str] = Field(description="what the task reads of a row")
    evaluated_splits: list[str] = Field(["validation"], description="the first of these that is at hand is evaluated")
    fewshot_splits: list[str] = Field(
        ["train", "validation", "test"], description="the first of these that is at hand gives the examples"
    )
    file_stems: list[str] = Field([], description="what file names may begin with; the name of the task if not set")
    is_by_subject: bool = Field(False, description="whether the rows of all subjects lie in one file, as for mmlu")


class SuiteTaskConfig(Settings):
    """A task of lm-evaluation-harness as a suite uses it."""

    task: str = Field(description="a task, group or tag that lm-evaluation-harness knows, or one of `include_path`")
    num_fewshot: int | None = Field(None, ge=0, description="examples before each question; the task's own if not set")
    chance: float | None = Field(None, ge=0, le=1, description="what guessing scores; unknown if not set")
    metric: str | None = Field(
        None, description="what tables show and averages count; acc_norm, acc or the task's first metric if not set"
    )
    local: LocalFilesConfig | None = Field(None, description="how the task is read from files of `data_dir`")


class SuiteConfig(Settings):
    """Tasks that are scored together."""

    tasks: list[SuiteTaskConfig] = Field(min_length=1, description="in the order of tables")
    include_path: list[str] = Field([], description="folders with task YAMLs, relative to the file of the suite")


class EvaluationSettings(Settings):
    """Tasks, and how the model runs them."""

    suite: str = Field("general", description="general, biomedicine, finance, context_qa, or a YAML file of yours")
    data_dir: str | None = Field(
        None, description="folder of local task files (TASK.SPLIT.jsonl[.gz]); not set: download from the hub"
    )
    tasks: list[str] | None = Field(
        None, description="only these tasks of the suite, or any task, group or tag of lm-evaluation-harness"
    )
    include_path: Annotated[list[str], IdentityUnlessDefault] = Field(
        [], description="folders with task YAMLs of yours"
    )
    num_fewshot: Annotated[int | None, IdentityUnlessDefault] = Field(
        None, ge=0, description="examples before each question, for all tasks; those of the suite if not set"
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="number of questions per task, the first ones; for mmlu the total over its subjects",
    )
    backend: Annotated[Literal["hf", "vllm"], IdentityUnlessDefault] = Field(
        "hf", description="what runs the model: transformers or vLLM, as lm-evaluation-harness uses them"
    )
    model_args: Annotated[dict[str, Any], IdentityUnlessDefault] = Field(
        {}, description="more arguments of the backend: parallelize, tensor_parallel_size, max_length, ..."
    )
    batch_size: str = Field("auto", description="a number, or auto: as large as fits on a GPU, 16 on a CPU")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto",
        description="auto: float16 on a GPU, as on the model card, float32 on a CPU",
    )
    device: str | None = Field(None, description="cuda or cpu; cuda if available when not set")
    add_bos_token: Annotated[bool, IdentityUnlessDefault] = Field(
        True, description="put BOS before every prompt, as these models are trained"
    )
    apply_chat_template: Annotated[bool, IdentityUnlessDefault] = Field(
        False, description="put prompts into the chat template of the model's tokenizer"
    )
    fewshot_as_multiturn: Annotated[bool, IdentityUnlessDefault] = Field(
        True, description="with a chat template, examples are turns of the conversation rather than one message"
    )
    system_instruction: Annotated[str | None, IdentityUnlessDefault] = Field(
        None, description="text before every prompt, as the system message where there is a chat template"
    )
    gen_kwargs: Annotated[dict[str, Any], IdentityUnlessDefault] = Field(
        {"do_sample": False}, description="settings of generation that replace the tasks' own; {} keeps those"
    )
    confirm_run_unsafe_code: Annotated[bool, IdentityUnlessDefault] = Field(
        False, description="run tasks that execute code which the model wrote"
    )
    run: str | None = Field(None, description="training run whose loss curve the report includes")
    seed: int = Field(1234, ge=0, le=2**31 - 1, description="seed of the few-shot sampling")


class EvaluateConfig(EvaluationSettings):
    """lm-evaluation-harness on a Hugging Face folder."""

    model: str = Field(description="Hugging Face model folder, or a name on the hub")
    output: Annotated[str, NotIdentity] = Field(description="folder for results.json and the report")


class TrendConfig(Settings):
    """Conversion and scoring of the checkpoints of a training run, also while it trains."""

    run: str = Field(description="folder of the training run")
    output: str = Field(description="folder with scores.jsonl and an evaluation of each checkpoint: iter_0000100/, ...")
    every: int = Field(1, ge=1, description="score checkpoints whose iteration is a multiple of this")
    follow: bool = Field(True, description="wait for more checkpoints until the run has finished")
    poll_seconds: float = Field(60.0, gt=0, description="seconds between looks for new checkpoints")
    keep_models: bool = Field(False, description="keep the Hugging Face folder of each checkpoint")
    evaluation: EvaluationSettings = Field(
        default_factory=EvaluationSettings, description="what each checkpoint is asked, as for evaluate"
    )
