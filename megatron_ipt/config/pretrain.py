"""Everything one training run is told, in sections; field names are megatron-core's where it has one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.settings import NotIdentity, Settings


class ParallelConfig(Settings):
    """How the model and the batch are laid out over the ranks."""

    tensor_model_parallel_size: int = Field(1, ge=1, description="ranks that share each layer's matrices")
    pipeline_model_parallel_size: int = Field(1, ge=1, description="ranks that share the stack of layers")
    virtual_pipeline_model_parallel_size: int | None = Field(
        None, ge=1, description="model chunks per pipeline rank: the interleaved schedule"
    )
    context_parallel_size: int = Field(1, ge=1, description="ranks that share each sequence, two slices of it each")
    sequence_parallel: bool = Field(False, description="shard activations of norms and dropouts over the tensor ranks")
    use_distributed_optimizer: bool = Field(False, description="shard the optimizer state over the data-parallel ranks")
    overlap_grad_reduce: bool = Field(False, description="reduce gradients while the backward pass runs")
    overlap_param_gather: bool = Field(
        False, description="gather parameters while the forward pass runs (distributed optimizer)"
    )
    recompute_granularity: Literal["full", "selective"] | None = Field(
        None,
        description="full: keep only each layer's input and compute the rest again; selective: the attention weights only",
    )


class PrecisionConfig(Settings):
    """Number formats and kernels."""

    bf16: bool = Field(True, description="bf16 weights with fp32 master weights; false: fp32 throughout")
    fp8: Literal["hybrid", "e4m3"] | None = Field(
        None, description="hybrid or e4m3, through Transformer Engine on Hopper or newer"
    )
    fp8_recipe: Literal["tensorwise", "delayed", "blockwise"] = Field(
        "tensorwise",
        description="where the scales come from: tensorwise (each tensor as it is), delayed (its history), blockwise",
    )
    fp8_param_gather: bool = Field(False, description="keep and gather the matrices in FP8 too (distributed optimizer)")
    transformer_impl: Literal["auto", "local", "transformer_engine"] = Field(
        "auto", description="local, transformer_engine, or auto: Transformer Engine where it and a GPU are present"
    )
    attention_backend: Literal["auto", "flash", "fused", "unfused"] = Field(
        "auto", description="Transformer Engine's attention: flash, fused (cuDNN), unfused or auto"
    )
    deterministic_mode: bool = Field(False, description="on a GPU, only kernels that give the same bits again; slower")


class BlendEntry(Settings):
    """One indexed dataset of a blend."""

    prefix: str = Field(description="path of the .bin and .idx without the ending")
    weight: float | None = Field(
        None, description="share of the samples, relative to the other entries; 1 when neither is set"
    )
    epochs: float | None = Field(
        None, description="instead: how often its train part is read; weights share what that leaves"
    )

    @property
    def share(self) -> float | None:
        """The weight; None where the epochs tell."""
        return 1.0 if self.weight is None and self.epochs is None else self.weight


class DataConfig(Settings):
    """What the model reads."""

    tokenizer: Annotated[str, NotIdentity] = Field(
        description="Hugging Face tokenizer folder the data was tokenized with"
    )
    blend: Annotated[list[BlendEntry], NotIdentity] = Field(
        default_factory=list, description="indexed datasets with weights"
    )
    split: str = Field("99,1,0", description="shares of train, validation and test documents")
    seq_length: int = Field(2048, ge=1, description="tokens per sample")
    reset_position_ids: bool = Field(False, description="restart positions after each end of document")
    reset_attention_mask: bool = Field(False, description="no attention across an end of document")
    eod_mask_loss: bool = Field(False, description="no loss on end-of-document tokens")
    index_cache: Annotated[str | None, NotIdentity] = Field(
        None, description="folder for sample indices; RUN/index_cache when not set"
    )


class OptimizerConfig(Settings):
    """Adam, or Muon for the matrices, with decoupled weight decay."""

    optimizer: Literal["adam", "muon"] = Field(
        "adam", description="adam, or muon: for matrices, with Adam for embeddings, LM head and norms"
    )
    lr: float = Field(3e-4, ge=0, description="peak learning rate")
    min_lr: float = Field(3e-5, ge=0, description="learning rate at the end of the decay")
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay; none on norms and biases")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="decay of the second moment")
    adam_eps: float = Field(1e-8, gt=0, description="added to the denominator")
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="Muon: decay of the momentum")
    clip_grad: float = Field(1.0, ge=0, description="largest global gradient norm; 0: no clipping")


class ScheduleConfig(Settings):
    """Learning rate over the iterations."""

    lr_decay_style: Literal["cosine", "WSD", "linear", "constant"] = Field(
        "cosine", description="cosine, WSD, linear or constant"
    )
    lr_warmup_iters: int = Field(0, ge=0, description="iterations of linear warm-up")
    lr_decay_iters: int | None = Field(
        None, ge=1, description="iteration at which min_lr is reached; train_iters when not set"
    )
    lr_wsd_decay_iters: int | None = Field(None, ge=1, description="WSD: length of the final decay, in iterations")
    lr_wsd_decay_style: Literal["minus_sqrt", "linear", "cosine", "exponential"] = Field(
        "minus_sqrt", description="WSD: linear, cosine, exponential or minus_sqrt"
    )


class TrainingConfig(Settings):
    """Length and batch of the run, and how often it reports."""

    train_iters: int = Field(1000, ge=1, description="optimizer steps")
    micro_batch_size: Annotated[int, NotIdentity] = Field(1, ge=1, description="samples per rank and forward pass")
    global_batch_size: int = Field(8, ge=1, description="samples per optimizer step")
    rampup_batch_size: list[int] | None = Field(
        None,
        description="[first batch, increment, samples]: grow the batch evenly to global_batch_size over the first samples",
    )
    seed: int = Field(1234, ge=0, le=2**31 - 1, description="seed of weights, data order and dropout")
    log_interval: Annotated[int, NotIdentity] = Field(10, ge=1, description="iterations between progress lines")
    eval_interval: Annotated[int, NotIdentity] = Field(100, ge=1, description="iterations between validations")
    eval_iters: Annotated[int, NotIdentity] = Field(
        10, ge=0, description="global batches per validation; 0: no validation"
    )
    exit_interval: Annotated[int | None, NotIdentity] = Field(
        None, ge=1, description="save and leave after an iteration divisible by this"
    )
    calculate_per_token_loss: bool = Field(False, description="average over tokens of the batch, not over samples")


class CheckpointConfig(Settings):
    """Saving and starting points; a run always resumes from its own newest usable checkpoint."""

    save_interval: int = Field(100, ge=1, description="iterations between checkpoints; one is always saved at the end")
    async_save: bool = Field(True, description="write while training goes on; false: training waits")
    keep_last: int = Field(2, ge=0, description="newest checkpoints kept; 0: all")
    keep_every: int | None = Field(
        None, ge=1, description="checkpoints of iterations divisible by this are kept besides"
    )
    keep_best: int = Field(0, ge=0, description="checkpoints of the lowest validation loss that are kept besides")
    pretrained_checkpoint: str | None = Field(
        None, description="run, iter_* or conversion whose weights a new run starts from"
    )


class FaultsConfig(Settings):
    """What becomes of steps that are not sound, and of runs that hang."""

    on_nonfinite: Literal["stop", "skip", "roll_back"] = Field(
        "stop", description="NaN or Inf in loss or gradients: stop, skip (no update) or roll_back"
    )
    on_loss_spike: Literal["ignore", "stop", "skip", "roll_back"] = Field(
        "ignore", description="a loss far above the last ones: ignore, stop, skip or roll_back"
    )
    loss_spike_sigmas: float = Field(
        6.0, ge=0, description="a spike is this many standard deviations above the mean of the window"
    )
    loss_spike_window: int = Field(128, ge=1, description="steps in the window")
    most_anomalies: int = Field(
        10, ge=0, description="skipped or rolled-back steps after which the run stops all the same"
    )
    hang_timeout_seconds: int = Field(
        1200, ge=1, description="longest time of a step with its validation and checkpoint"
    )


class TrackingConfig(Settings):
    """Where the curves go besides metrics.jsonl."""

    tensorboard: bool = Field(True, description="write RUN/tensorboard")
    wandb_mode: Literal["disabled", "offline", "online"] = Field("disabled", description="disabled, offline or online")
    wandb_project: str = Field("megatron_ipt", description="Weights & Biases project")
    wandb_name: str | None = Field(None, description="Weights & Biases run name; the run folder's when not set")


class ProfileConfig(Settings):
    """Iterations that a profiler records."""

    tool: Literal["torch", "nsys"] | None = Field(
        None,
        description="torch: a trace in RUN/profile; nsys: the range of nsys profile --capture-range=cudaProfilerApi",
    )
    first_iteration: int = Field(10, ge=1, description="first iteration to record, counted from 1")
    last_iteration: int = Field(12, ge=1, description="last iteration to record")
    ranks: list[int] = Field([0], description="ranks that record")


class PretrainConfig(Settings):
    """One training run."""

    run: Annotated[str, NotIdentity] = Field(description="folder of the run: config, metrics, checkpoints")
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(description="what the model reads")
    parallel: Annotated[ParallelConfig, NotIdentity] = Field(default_factory=ParallelConfig)
    precision: PrecisionConfig = Field(default_factory=PrecisionConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    checkpoint: Annotated[CheckpointConfig, NotIdentity] = Field(default_factory=CheckpointConfig)
    faults: Annotated[FaultsConfig, NotIdentity] = Field(default_factory=FaultsConfig)
    tracking: Annotated[TrackingConfig, NotIdentity] = Field(default_factory=TrackingConfig)
    profile: Annotated[ProfileConfig, NotIdentity] = Field(default_factory=ProfileConfig)
