"""Settings for a training run, in sections, with megatron-core's names where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.settings import DEFAULT_SEED, NotIdentity, Seed, Settings


class ParallelConfig(Settings):
    """How the model and the batch are distributed over the ranks."""

    tensor_model_parallel_size: int = Field(1, ge=1, description="ranks that share the matrices of each layer")
    pipeline_model_parallel_size: int = Field(1, ge=1, description="ranks that share the stack of layers")
    num_layers_in_first_pipeline_stage: int | None = Field(
        None, ge=1, description="number of layers of the first pipeline rank; that of the middle ranks if not set"
    )
    num_layers_in_last_pipeline_stage: int | None = Field(
        None,
        ge=1,
        description="number of layers of the last pipeline rank, which also holds the LM head; that of the middle ranks"
        " if not set",
    )
    virtual_pipeline_model_parallel_size: int | None = Field(
        None, ge=1, description="model chunks per pipeline rank; enables the interleaved schedule"
    )
    context_parallel_size: int = Field(1, ge=1, description="ranks that share each sequence, two chunks each")
    sequence_parallel: bool | None = Field(
        None,
        description="shard the activations of norms and dropouts over the tensor-parallel ranks; if not set, on GPUs"
        " where the samples can be divided",
    )
    make_vocab_size_divisible_by: int = Field(
        1, ge=1, description="pad the vocabulary to a multiple of this x tensor ranks; 128 is fastest on GPUs"
    )
    use_distributed_optimizer: bool | None = Field(
        None,
        description="shard the optimizer state over the data-parallel ranks; if not set, as in the checkpoint that the"
        " run resumes from, else on GPUs, except with Muon",
    )
    overlap_grad_reduce: bool | None = Field(
        None,
        description="reduce gradients during the backward pass; if not set, on GPUs with several data-parallel ranks",
    )
    overlap_param_gather: bool | None = Field(
        None,
        description="gather parameters during the forward pass (distributed optimizer only); if not set, where both"
        " the distributed optimizer and overlap_grad_reduce are on and a GPU is present",
    )
    bucket_size: int | None = Field(
        None, ge=1, description="parameters whose gradients are reduced together; megatron-core's choice if not set"
    )
    average_in_collective: bool = Field(
        False, description="let NCCL average gradients instead of dividing them before the sum (GPUs only)"
    )
    tp_comm_overlap: bool = Field(
        False,
        description="overlap the communication of tensor-parallel ranks with the matrix products that need it, through"
        " Transformer Engine's user buffers",
    )
    recompute_granularity: Literal["full", "selective"] | None = Field(
        None,
        description="recompute activations in the backward pass; full: store only the input of each layer; selective:"
        " recompute the parts in recompute_modules",
    )
    recompute_method: Literal["uniform", "block"] | None = Field(
        None,
        description="full: recompute all layers in units of recompute_num_layers (uniform, if not set), or the first"
        " recompute_num_layers of each model chunk (block)",
    )
    recompute_num_layers: int | None = Field(None, ge=1, description="full: see recompute_method; 1 if not set")
    recompute_modules: list[Literal["core_attn", "layernorm", "mlp"]] | None = Field(
        None, description="selective: parts of a layer to recompute; core_attn if not set"
    )


class PrecisionConfig(Settings):
    """Number formats and kernels."""

    bf16: bool = Field(True, description="bf16 weights with fp32 master weights; false: fp32 throughout")
    fp8: Literal["hybrid", "e4m3"] | None = Field(
        None, description="FP8 matrix products through Transformer Engine, on Hopper or newer"
    )
    fp8_recipe: Literal["tensorwise", "delayed", "blockwise"] = Field(
        "tensorwise",
        description="FP8 scaling: from the current tensor (tensorwise), from its amax history (delayed), or per block",
    )
    fp8_param_gather: bool = Field(
        False, description="store and all-gather the weight matrices in FP8 (distributed optimizer only)"
    )
    first_last_layers_bf16: bool = Field(False, description="keep the first and the last layers in bf16 (FP8 only)")
    num_layers_at_start_in_bf16: int = Field(1, ge=0, description="with first_last_layers_bf16: layers at the start")
    num_layers_at_end_in_bf16: int = Field(1, ge=0, description="with first_last_layers_bf16: layers at the end")
    grad_reduce_in_fp32: bool = Field(
        True, description="accumulate and reduce gradients in fp32; false: in the format of the weights"
    )
    transformer_impl: Literal["auto", "local", "transformer_engine"] = Field(
        "auto", description="layer implementation; auto: Transformer Engine if it is installed and a GPU is present"
    )
    attention_backend: Literal["auto", "flash", "fused", "unfused"] = Field(
        "auto", description="Transformer Engine's attention backend; fused is cuDNN's"
    )
    cuda_graph_impl: Annotated[Literal["none", "local"], NotIdentity] = Field(
        "none", description="local: launch each layer as a CUDA graph, which megatron-core captures"
    )
    deterministic_mode: bool = Field(False, description="use only bitwise reproducible GPU kernels; slower")


class BlendEntry(Settings):
    """One indexed dataset of a blend."""

    prefix: str = Field(description="path of the .bin and .idx files without the extension")
    weight: float | None = Field(
        None, gt=0, description="share of the samples relative to the other entries; 1 if epochs is not set either"
    )
    epochs: float | None = Field(
        None, gt=0, description="how often the training split is read; weighted entries share the samples that remain"
    )

    @property
    def share(self) -> float | None:
        """The weight, 1 by default; None if `epochs` is set instead."""
        return 1.0 if self.weight is None and self.epochs is None else self.weight


class ValidationSetConfig(Settings):
    """An indexed dataset that is used for validation only."""

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$", description="its loss is logged as validation_loss/NAME")
    prefix: str = Field(description="path of the .bin and .idx files without the extension")


class DataConfig(Settings):
    """Training data."""

    tokenizer: Annotated[str, NotIdentity] = Field(
        description="Hugging Face tokenizer folder that the data was tokenized with"
    )
    blend: Annotated[list[BlendEntry], NotIdentity] = Field(  # the stage compares file contents and weights
        default_factory=list, description="indexed datasets and their weights"
    )
    validation_sets: Annotated[list[ValidationSetConfig], NotIdentity] = Field(
        default_factory=list,
        description="indexed datasets for validation, each with its own loss, in addition to the validation split",
    )
    split: str = Field("99,1,0", description="shares of the training, validation and test documents")
    seq_length: int = Field(2048, ge=1, description="tokens per sample")
    reset_position_ids: bool = Field(False, description="restart position ids after each end-of-document token")
    reset_attention_mask: bool = Field(False, description="mask attention between documents of a sample")
    eod_mask_loss: bool = Field(False, description="exclude end-of-document tokens from the loss")
    index_cache: Annotated[str | None, NotIdentity] = Field(
        None, description="folder for sample indices; RUN/index_cache if not set"
    )


class OptimizerConfig(Settings):
    """Adam, or Muon for the matrices, with decoupled weight decay."""

    optimizer: Literal["adam", "muon"] = Field(
        "adam", description="muon: Muon for the matrices, Adam for embeddings, LM head and norms"
    )
    lr: float = Field(3e-4, ge=0, description="peak learning rate")
    min_lr: float = Field(3e-5, ge=0, description="learning rate at the end of the decay")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay; not applied to norms and biases")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay rate of the first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay rate of the second moment")
    adam_eps: float = Field(1e-8, gt=0, description="added to the denominator")
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="momentum of Muon")
    clip_grad: float = Field(1.0, ge=0, description="maximum global gradient norm; 0: no clipping")
    use_precision_aware_optimizer: bool = Field(
        False,
        description="let Transformer Engine's Adam keep its state in the formats below (distributed optimizer only)",
    )
    main_params_dtype: Literal["fp32", "fp16"] = Field(
        "fp32", description="precision-aware optimizer: format of the master weights"
    )
    exp_avg_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="precision-aware optimizer: format of the first moment"
    )
    exp_avg_sq_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="precision-aware optimizer: format of the second moment"
    )
    optimizer_cpu_offload: Annotated[bool, NotIdentity] = Field(
        False, description="keep and update part of the optimizer state in host memory (precision-aware optimizer only)"
    )
    optimizer_offload_fraction: Annotated[float, NotIdentity] = Field(
        1.0, gt=0, le=1, description="with optimizer_cpu_offload: share of the parameters whose state is offloaded"
    )


class ScheduleConfig(Settings):
    """Learning rate schedule."""

    lr_decay_style: Literal["cosine", "WSD", "linear", "constant"] = Field(
        "cosine", description="shape of the decay; WSD: warm-up, stable, decay"
    )
    lr_warmup_iters: int = Field(0, ge=0, description="iterations of linear warm-up")
    lr_decay_iters: int | None = Field(
        None, ge=1, description="iteration at which min_lr is reached; train_iters if not set"
    )
    lr_wsd_decay_iters: int | None = Field(None, ge=1, description="WSD: iterations of the final decay")
    lr_wsd_decay_style: Literal["minus_sqrt", "linear", "cosine", "exponential"] = Field(
        "minus_sqrt", description="WSD: shape of the final decay"
    )


class TrainingConfig(Settings):
    """Length and batch size of the run, and intervals of logging and validation."""

    train_iters: int = Field(1000, ge=1, description="optimizer steps")
    micro_batch_size: Annotated[int, NotIdentity] = Field(1, ge=1, description="samples per rank and forward pass")
    global_batch_size: int = Field(8, ge=1, description="samples per optimizer step")
    rampup_batch_size: list[int] | None = Field(
        None,
        description="[initial batch size, increment, samples]: grow the batch linearly to global_batch_size over that"
        " many samples",
    )
    seed: Seed = Field(DEFAULT_SEED, description="seed of weights, data order and dropout")
    log_interval: Annotated[int, NotIdentity] = Field(10, ge=1, description="iterations between progress lines")
    eval_interval: Annotated[int, NotIdentity] = Field(100, ge=1, description="iterations between validations")
    eval_iters: Annotated[int, NotIdentity] = Field(
        10, ge=0, description="global batches per validation; 0: no validation"
    )
    exit_interval: Annotated[int | None, NotIdentity] = Field(
        None, ge=1, description="save and exit after an iteration divisible by this"
    )
    calculate_per_token_loss: bool = Field(
        False, description="average the loss over the tokens of the global batch, not over its samples"
    )
    z_loss_coeff: float = Field(
        0.0,
        ge=0,
        description="weight of the z-loss (the squared log of the softmax normalizer), which keeps logits small; 1e-4"
        " in PaLM",
    )
    manual_gc: Annotated[bool | None, NotIdentity] = Field(
        None,
        description="run Python's garbage collection between steps, on all ranks at the same time; if not set, on GPUs"
        " with several ranks",
    )
    manual_gc_interval: Annotated[int, NotIdentity] = Field(
        100, ge=0, description="with manual_gc: iterations between collections; 0: only before validations"
    )
    manual_gc_eval: Annotated[bool, NotIdentity] = Field(
        True, description="with manual_gc: collect before validations too"
    )
    callbacks: list[str] = Field(
        default_factory=list,
        description="callbacks of other installed packages, by their names in the entry point group"
        " megatron_ipt.callbacks",
    )


class CheckpointConfig(Settings):
    """Checkpoints and starting point; a run always resumes from its own newest complete checkpoint."""

    save_interval: int = Field(100, ge=1, description="iterations between checkpoints; the last iteration is saved too")
    local_folder: str | None = Field(
        None,
        description="folder on each node's own disk that outlives the job; each rank also saves its state there, for"
        " restarts on the same nodes",
    )
    local_interval: int | None = Field(None, ge=1, description="iterations between saves to local_folder")
    async_save: bool = Field(True, description="write in the background while training continues")
    keep_last: int = Field(2, ge=0, description="number of newest checkpoints to keep; 0: all")
    keep_every: int | None = Field(None, ge=1, description="also keep checkpoints of iterations divisible by this")
    keep_best: int = Field(0, ge=0, description="also keep this many checkpoints with the lowest validation loss")
    export_hf: bool = Field(
        False,
        description="export the checkpoints kept by keep_every, and the last one, to Hugging Face folders RUN/hf/iter_*"
        " while training continues",
    )
    pretrained_checkpoint: str | None = Field(
        None, description="run, iter_* folder or converted checkpoint that supplies the initial weights of a new run"
    )
    load_optimizer: bool = Field(
        False,
        description="new stage of training: also load the optimizer state of pretrained_checkpoint, a run or one of its"
        " iter_* folders; iteration, data, batch size and schedule start from the beginning",
    )


class FaultsConfig(Settings):
    """Responses to anomalous steps and to hangs."""

    renamed: ClassVar[Mapping[str, str]] = {"most_anomalies": "max_anomalies"}

    on_nonfinite: Literal["stop", "skip", "roll_back"] = Field(
        "stop", description="response to NaN or Inf in the loss or the gradients; skip: no update"
    )
    on_loss_spike: Literal["ignore", "stop", "skip", "roll_back"] = Field(
        "ignore", description="response to a loss far above that of recent steps"
    )
    loss_spike_sigmas: float = Field(
        6.0, ge=0, description="a loss this many standard deviations above the mean of the window is a spike"
    )
    loss_spike_window: int = Field(128, ge=1, description="number of recent steps in the window")
    max_anomalies: int = Field(10, ge=0, description="skipped or rolled-back steps allowed before the run stops")
    hang_timeout_seconds: int = Field(
        1200, ge=1, description="maximum duration of a step, including validation and checkpoint"
    )


class AlertsConfig(Settings):
    """Messages to a webhook, as JSON with `text`, which Slack, Mattermost and others show."""

    url_variable: str | None = Field(
        None, description="environment variable that holds the URL of the webhook; no alerts if not set"
    )
    events: list[Literal["restart", "spike", "stall", "end"]] = Field(
        ["restart", "spike", "stall", "end"],
        description="restart: the run resumes; spike: a loss or gradient is not finite, or the loss is far above"
        " that of recent steps; stall: no step completes within stall_seconds; end: the run finished, exited or failed",
    )
    stall_seconds: int = Field(600, ge=1, description="duration of a step that counts as a stall")


class TrackingConfig(Settings):
    """Experiment trackers; metrics.jsonl is always written."""

    tensorboard: bool = Field(True, description="write RUN/tensorboard")
    wandb_mode: Literal["disabled", "offline", "online"] = Field("disabled", description="Weights & Biases mode")
    wandb_project: str = Field("megatron_ipt", description="Weights & Biases project")
    wandb_name: str | None = Field(None, description="Weights & Biases run name; the name of the run folder if not set")


class ProfileConfig(Settings):
    """Profiling of a range of iterations."""

    tool: Literal["torch", "nsys"] | None = Field(
        None,
        description="torch: write a trace to RUN/profile; nsys: mark the range for nsys profile"
        " --capture-range=cudaProfilerApi",
    )
    first_iteration: int = Field(10, ge=1, description="first iteration to profile, counted from 1")
    last_iteration: int = Field(12, ge=1, description="last iteration to profile")
    ranks: list[int] = Field([0], description="ranks to profile")


class PretrainConfig(Settings):
    """A training run."""

    run: Annotated[str, NotIdentity] = Field(description="folder of the run: configuration, metrics, checkpoints")
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(description="training data")
    parallel: Annotated[ParallelConfig, NotIdentity] = Field(default_factory=ParallelConfig)
    precision: PrecisionConfig = Field(default_factory=PrecisionConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    checkpoint: Annotated[CheckpointConfig, NotIdentity] = Field(default_factory=CheckpointConfig)
    faults: Annotated[FaultsConfig, NotIdentity] = Field(default_factory=FaultsConfig)
    alerts: Annotated[AlertsConfig, NotIdentity] = Field(default_factory=AlertsConfig)
    tracking: Annotated[TrackingConfig, NotIdentity] = Field(default_factory=TrackingConfig)
    profile: Annotated[ProfileConfig, NotIdentity] = Field(default_factory=ProfileConfig)
