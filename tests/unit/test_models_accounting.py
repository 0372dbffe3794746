"""The accounting is held against models that were built, run and measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from megatron_ipt.config.model import ModelConfig
from megatron_ipt.config.model_presets import MODEL_PRESETS
from megatron_ipt.config.pretrain import OptimizerConfig, ParallelConfig, PrecisionConfig
from megatron_ipt.models.accounting import flops_per_token, parameter_count, parameter_count_of_rank
from megatron_ipt.models.gpt import build_gpt_chunks
from megatron_ipt.models.memory import memory_of_rank
from megatron_ipt.models.transformer_config import transformer_config
from megatron_ipt.models.workload import Workload
from megatron_ipt.parallel.groups import Groups

PUBLISHED = {  # of the paper's models as derived from its table, of others as on the Hugging Face Hub
    "instructlm-500m": 567_854_592,
    "instructlm-1.3b": 1_347_504_128,
    "mistral-7b": 7_241_732_096,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-70b": 70_553_706_496,
    "mistral-nemo-12b": 12_247_782_400,
    "mistral-small-24b": 23_572_403_200,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "olmo2-13b": 13_716_198_400,
    "olmo2-32b": 32_234_279_936,
    "smollm2-135m": 134_515_008,
}
SEQ_LENGTH = 32
TINY = ModelConfig(num_layers=4, num_query_groups=4, vocab_size=512, sliding_window=None)


def build(model: ModelConfig, groups: Groups, *, bf16: bool = False) -> torch.nn.Module:
    parallel, precision = ParallelConfig(), PrecisionConfig(bf16=bf16)
    config = transformer_config(model, parallel, precision, calculate_per_token_loss=False)
    config.perform_initialization = groups.device.type == "cpu" and parameter_count(model) < 10**7
    [chunk] = build_gpt_chunks(model, parallel, precision, config, groups, SEQ_LENGTH)
    return chunk


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    assert parameter_count(ModelConfig(preset=name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_parameters_are_those_of_the_built_model(name: str, groups: Groups) -> None:
    model = ModelConfig(preset=name)
    with torch.device("meta"):
        built = build(model, replace(groups, device=torch.device("meta")))
    assert parameter_count(model) == sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_ranks_share_the_parameters(tied: bool) -> None:
    model = TINY.model_copy(update={"untie_embeddings_and_output_weights": not tied})
    parallel = ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    held = 2 * sum(parameter_count_of_rank(model, parallel, stage) for stage in range(2))
    norms = (2 * model.num_layers + 1) * model.hidden_size  # each tensor rank has them all
    copied_embedding = model.vocab_size * model.hidden_size if tied else 0
    assert held == parameter_count(model) + norms + copied_embedding
    assert parameter_count_of_rank(model, ParallelConfig()) == parameter_count(model)


@pytest.mark.parametrize(("name", "gigaflops"), [("instructlm-500m", 3.41), ("instructlm-1.3b", 8.20)])
def test_flops_of_the_papers_models(name: str, gigaflops: float) -> None:
    assert flops_per_token(ModelConfig(preset=name), 2048) / 1e9 == pytest.approx(gigaflops, abs=0.01)


def test_flops_are_those_that_torch_counts(groups: Groups) -> None:
    model = build(TINY, groups)
    tokens = torch.randint(0, TINY.vocab_size, (2, SEQ_LENGTH))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernel's go uncounted
        model(tokens, torch.arange(SEQ_LENGTH).expand_as(tokens), None, labels=tokens).mean().backward()
    assert counter.get_total_flops() / tokens.numel() == flops_per_token(TINY, SEQ_LENGTH, causal=False)


def test_a_window_saves_attention() -> None:
    windowed = TINY.model_copy(update={"sliding_window": 8})
    saved = flops_per_token(TINY, SEQ_LENGTH) - flops_per_token(windowed, SEQ_LENGTH)
    seen = [min(i + 1, 8) for i in range(SEQ_LENGTH)]
    hidden = sum(i + 1 for i in range(SEQ_LENGTH)) - sum(seen)
    assert saved == pytest.approx(3 * 4 * TINY.num_layers * TINY.hidden_size * hidden / SEQ_LENGTH)


@pytest.mark.parametrize("bf16", [False, True])
def test_memory_of_weights_and_optimizer_is_what_they_take(bf16: bool, groups: Groups) -> None:
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    from megatron_ipt.optim.optimizer import build_optimizer

    model, precision = build(TINY, groups, bf16=bf16), PrecisionConfig(bf16=bf16)
    ddp = DistributedDataParallel(
        model.config, DistributedDataParallelConfig(grad_reduce_in_fp32=bf16, overlap_grad_reduce=False), model
    )
    optimizer = build_optimizer(OptimizerConfig(), ParallelConfig(), precision, [ddp])
    tokens = torch.randint(0, TINY.vocab_size, (2, SEQ_LENGTH))
    ddp(tokens, torch.arange(SEQ_LENGTH).expand_as(tokens), None, labels=tokens).float().mean().backward()
    ddp.finish_grad_sync()
    optimizer.step()

    estimate = memory_of_rank(Workload(TINY, ParallelConfig(), precision, OptimizerConfig(), 2, SEQ_LENGTH, 1, 1))
    assert estimate.weights_bytes == sum(parameter.nbytes for parameter in ddp.parameters())
    assert estimate.gradients_bytes == sum(buffer.grad_data.nbytes for buffer in ddp.buffers)
    adams = [part.optimizer for part in optimizer.chained_optimizers]
    moments = sum(
        state[name].nbytes for adam in adams for state in adam.state.values() for name in ("exp_avg", "exp_avg_sq")
    )
    masters = sum(p.nbytes for adam in adams for group in adam.param_groups for p in group["params"]) if bf16 else 0
    assert estimate.optimizer_bytes == moments + masters
