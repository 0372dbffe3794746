"""Everything one training run is told, in sections; field names are megatron-core's where it has one."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How the model and the batch are laid out over the ranks."""

    tensor_model_parallel_size: int = setting(1, "ranks that share each layer's matrices")
    pipeline_model_parallel_size: int = setting(1, "ranks that share the stack of layers")
    virtual_pipeline_model_parallel_size: int | None = setting(
        None, "model chunks per pipeline rank: the interleaved schedule"
    )
    context_parallel_size: int = setting(1, "ranks that share each sequence, two slices of it each")
    sequence_parallel: bool = setting(False, "shard activations of norms and dropouts over the tensor ranks")
    use_distributed_optimizer: bool = setting(False, "shard the optimizer state over the data-parallel ranks")
    overlap_grad_reduce: bool = setting(False, "reduce gradients while the backward pass runs")
    overlap_param_gather: bool = setting(False, "gather parameters while the forward pass runs (distributed optimizer)")
    recompute_granularity: str | None = setting(
        None, "full: keep only each layer's input and compute the rest again; selective: the attention weights only"
    )


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Number formats and kernels."""

    bf16: bool = setting(True, "bf16 weights with fp32 master weights; false: fp32 throughout")
    fp8: str | None = setting(None, "hybrid or e4m3, through Transformer Engine on Hopper or newer")
    fp8_recipe: str = setting(
        "tensorwise", "where the scales come from: tensorwise (each tensor as it is), delayed (its history), blockwise"
    )
    fp8_param_gather: bool = setting(False, "keep and gather the matrices in FP8 too (distributed optimizer)")
    transformer_impl: str = setting(
        "auto", "local, transformer_engine, or auto: Transformer Engine where it and a GPU are present"
    )
    attention_backend: str = setting("auto", "Transformer Engine's attention: flash, fused (cuDNN), unfused or auto")
    deterministic_mode: bool = setting(False, "on a GPU, only kernels that give the same bits again; slower")


@dataclass(frozen=True, kw_only=True)
class BlendEntry:
    """One indexed dataset of a blend."""

    prefix: str = setting(help="path of the .bin and .idx without the ending")
    weight: float | None = setting(None, "share of the samples, relative to the other entries; 1 when neither is set")
    epochs: float | None = setting(None, "instead: how often its train part is read; weights share what that leaves")

    @property
    def share(self) -> float | None:
        """The weight; None where the epochs tell."""
        return 1.0 if self.weight is None and self.epochs is None else self.weight


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model reads."""

    tokenizer: str = setting(help="Hugging Face tokenizer folder the data was tokenized with")
    blend: list[BlendEntry] = setting(factory=list, help="indexed datasets with weights")
    split: str = setting("99,1,0", "shares of train, validation and test documents")
    seq_length: int = setting(2048, "tokens per sample")
    reset_position_ids: bool = setting(False, "restart positions after each end of document")
    reset_attention_mask: bool = setting(False, "no attention across an end of document")
    eod_mask_loss: bool = setting(False, "no loss on end-of-document tokens")
    index_cache: str | None = setting(None, "folder for sample indices; RUN/index_cache when not set")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam, or Muon for the matrices, with decoupled weight decay."""

    optimizer: str = setting("adam", "adam, or muon: for matrices, with Adam for embeddings, LM head and norms")
    lr: float = setting(3e-4, "peak learning rate")
    min_lr: float = setting(3e-5, "learning rate at the end of the decay")
    weight_decay: float = setting(0.1, "decoupled weight decay; none on norms and biases")
    adam_beta1: float = setting(0.9, "decay of the first moment")
    adam_beta2: float = setting(0.95, "decay of the second moment")
    adam_eps: float = setting(1e-8, "added to the denominator")
    muon_momentum: float = setting(0.95, "Muon: decay of the momentum")
    clip_grad: float = setting(1.0, "largest global gradient norm; 0: no clipping")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the iterations."""

    lr_decay_style: str = setting("cosine", "cosine, WSD, linear or constant")
    lr_warmup_iters: int = setting(0, "iterations of linear warm-up")
    lr_decay_iters: int | None = setting(None, "iteration at which min_lr is reached; train_iters when not set")
    lr_wsd_decay_iters: int | None = setting(None, "WSD: length of the final decay, in iterations")
    lr_wsd_decay_style: str = setting("minus_sqrt", "WSD: linear, cosine, exponential or minus_sqrt")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length and batch of the run, and how often it reports."""

    train_iters: int = setting(1000, "optimizer steps")
    micro_batch_size: int = setting(1, "samples per rank and forward pass")
    global_batch_size: int = setting(8, "samples per optimizer step")
    rampup_batch_size: list[int] | None = setting(
        None, "[first batch, increment, samples]: grow the batch evenly to global_batch_size over the first samples"
    )
    seed: int = setting(1234, "seed of weights, data order and dropout")
    log_interval: int = setting(10, "iterations between progress lines")
    eval_interval: int = setting(100, "iterations between validations")
    eval_iters: int = setting(10, "global batches per validation; 0: no validation")
    exit_interval: int | None = setting(None, "save and leave after an iteration divisible by this")
    calculate_per_token_loss: bool = setting(False, "average over tokens of the batch, not over samples")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Saving and starting points; a run always resumes from its own newest usable checkpoint."""

    save_interval: int = setting(100, "iterations between checkpoints; one is always saved at the end")
    async_save: bool = setting(True, "write while training goes on; false: training waits")
    keep_last: int = setting(2, "newest checkpoints kept; 0: all")
    keep_every: int | None = setting(None, "checkpoints of iterations divisible by this are kept besides")
    keep_best: int = setting(0, "checkpoints of the lowest validation loss that are kept besides")
    pretrained_checkpoint: str | None = setting(None, "run, iter_* or conversion whose weights a new run starts from")


@dataclass(frozen=True, kw_only=True)
class FaultsConfig:
    """What becomes of steps that are not sound, and of runs that hang."""

    on_nonfinite: str = setting("stop", "NaN or Inf in loss or gradients: stop, skip (no update) or roll_back")
    on_loss_spike: str = setting("ignore", "a loss far above the last ones: ignore, stop, skip or roll_back")
    loss_spike_sigmas: float = setting(6.0, "a spike is this many standard deviations above the mean of the window")
    loss_spike_window: int = setting(128, "steps in the window")
    most_anomalies: int = setting(10, "skipped or rolled-back steps after which the run stops all the same")
    hang_timeout_seconds: int = setting(1200, "longest time of a step with its validation and checkpoint")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the curves go besides metrics.jsonl."""

    tensorboard: bool = setting(True, "write RUN/tensorboard")
    wandb_mode: str = setting("disabled", "disabled, offline or online")
    wandb_project: str = setting("megatron_ipt", "Weights & Biases project")
    wandb_name: str | None = setting(None, "Weights & Biases run name; the run folder's when not set")


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Iterations that a profiler records."""

    tool: str | None = setting(
        None, "torch: a trace in RUN/profile; nsys: the range of nsys profile --capture-range=cudaProfilerApi"
    )
    first_iteration: int = setting(10, "first iteration to record, counted from 1")
    last_iteration: int = setting(12, "last iteration to record")
    ranks: list[int] = setting(factory=lambda: [0], help="ranks that record")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One training run."""

    run: str = setting(help="folder of the run: config, metrics, checkpoints")
    model: ModelConfig = setting(factory=ModelConfig)
    data: DataConfig = setting(help="what the model reads")
    parallel: ParallelConfig = setting(factory=ParallelConfig)
    precision: PrecisionConfig = setting(factory=PrecisionConfig)
    training: TrainingConfig = setting(factory=TrainingConfig)
    optimizer: OptimizerConfig = setting(factory=OptimizerConfig)
    schedule: ScheduleConfig = setting(factory=ScheduleConfig)
    checkpoint: CheckpointConfig = setting(factory=CheckpointConfig)
    faults: FaultsConfig = setting(factory=FaultsConfig)
    tracking: TrackingConfig = setting(factory=TrackingConfig)
    profile: ProfileConfig = setting(factory=ProfileConfig)
