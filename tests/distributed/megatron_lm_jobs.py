"""Megatron-LM itself (`megatron.training`, which megatron-core's wheels from 0.19 on hold), as jobs for the pool."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

_RUN = """
    --micro-batch-size=2 --train-iters=1 --lr=1e-3 --lr-decay-style=constant --save-interval=1
    --distributed-backend=gloo --transformer-impl=local --use-cpu-initialization --disable-jit-fuser
    --no-gradient-accumulation-fusion --no-masked-softmax-fusion --no-persist-layer-norm --no-rope-fusion
    --no-bias-swiglu-fusion --no-bias-dropout-fusion --tokenizer-type=NullTokenizer
"""


def save(folder: str, arguments: Sequence[str], tokens: list[list[int]]) -> list[list[list[float]]] | None:
    """Build a model with random weights, save it as Megatron-LM does, and return its logits.

    Returns:
        Logits [batch, seq, padded vocabulary] on ranks of the last stage; None on others.
    """
    with _megatron_lm([*arguments, f"--save={folder}"]) as (args, model):
        from megatron.training.checkpointing import save_checkpoint

        for chunk in model:
            for parameter in chunk.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        save_checkpoint(3, model, *_optimizer(model), 0)
        return _logits(args, model, tokens)


def load(arguments: Sequence[str], tokens: list[list[int]]) -> tuple[int, list[list[list[float]]] | None]:
    """Load a checkpoint as Megatron-LM does, by `--load` among the arguments; its iteration, and the model's logits."""
    with _megatron_lm(arguments) as (args, model):
        from megatron.training.checkpointing import load_checkpoint

        iteration, _ = load_checkpoint(model, None, None)
        return iteration, _logits(args, model, tokens)


@contextmanager
def _megatron_lm(arguments: Sequence[str]) -> Iterator[tuple[Any, list[torch.nn.Module]]]:
    """The arguments and the model of `pretrain_gpt.py ARGUMENTS`, with the process groups that they ask for.

    Megatron-LM joins ranks on GPUs only, so that the groups are made by our own code.
    """
    from megatron_ipt.config.pretrain import ParallelConfig
    from megatron_ipt.parallel.groups import initialize, shutdown

    former, sys.argv = sys.argv, ["pretrain_gpt.py", *_RUN.split(), *arguments]
    from megatron.core.rerun_state_machine import destroy_rerun_state_machine
    from megatron.training import global_vars
    from megatron.training.argument_utils import gpt_config_from_args
    from megatron.training.arguments import parse_and_validate_args
    from megatron.training.models.gpt import GPTModelBuilder
    from megatron.training.training import get_megatron_ddp_config

    try:
        with patch("megatron.training.arguments.get_device_arch_version", return_value=10):  # asks for a GPU
            args = parse_and_validate_args()
        parallel = ParallelConfig(
            tensor_model_parallel_size=args.tensor_model_parallel_size,
            pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        )
        groups = initialize(parallel, seed=args.seed)
        builder = GPTModelBuilder(gpt_config_from_args(args))
        model = builder.build_distributed_models(groups.collection, get_megatron_ddp_config(args))
        yield args, [chunk.eval() for chunk in model]
    finally:
        sys.argv = former
        global_vars.unset_global_variables()
        destroy_rerun_state_machine()
        shutdown()


def _optimizer(model: list[torch.nn.Module]) -> tuple[Any, Any]:
    """The optimizer and the schedule of the learning rate, as training makes them."""
    from megatron.core.optimizer import get_megatron_optimizer
    from megatron.training import get_args
    from megatron.training.training import get_megatron_optimizer_config, get_optimizer_param_scheduler

    config, overrides = get_megatron_optimizer_config(get_args())
    optimizer = get_megatron_optimizer(config, model, overrides, use_gloo_process_groups=False)
    return optimizer, get_optimizer_param_scheduler(optimizer)


@torch.no_grad()
def _logits(args: Any, model: list[torch.nn.Module], tokens: list[list[int]]) -> list[list[list[float]]] | None:
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    batch = torch.tensor(tokens)
    positions = torch.arange(batch.shape[1]).expand_as(batch)
    future = torch.ones(1, 1, batch.shape[1], batch.shape[1], dtype=torch.bool).triu(1)

    def forward(_: Any, chunk: torch.nn.Module) -> tuple[torch.Tensor, Any]:
        logits = chunk(batch, positions, future)
        return logits, lambda output, non_loss_data: gather_from_tensor_model_parallel_region(output)

    [logits] = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=[None] * len(model),
        model=model,
        num_microbatches=1,
        seq_length=batch.shape[1],
        micro_batch_size=batch.shape[0],
        forward_only=True,
        collect_non_loss_data=True,
    ) or [None]
    return None if logits is None else logits.tolist()
