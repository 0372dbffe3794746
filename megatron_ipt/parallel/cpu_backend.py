"""megatron-core on a machine without CUDA, over gloo.

megatron-core gets the device, streams and the random generator from `torch.cuda`, and creates some tensors with a
literal `device="cuda"`. Without CUDA each of those calls raises. `enable_cpu_backend` replaces attributes of `torch`
and `torch.cuda` by equivalents on the CPU; no code of megatron-core is replaced.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch

CPU_TRANSFORMER_CONFIG: dict[str, Any] = {
    "use_cpu_initialization": True,
    "gradient_accumulation_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "apply_rope_fusion": False,
    "batch_p2p_sync": False,
    "cross_entropy_loss_fusion": False,
    "tp_comm_overlap": False,
}
"""Values of TransformerConfig that are required to build and run a model on a CPU."""

_CPU = torch.device("cpu")
_FACTORIES = ("zeros", "ones", "empty", "tensor", "full", "empty_like")
_RANDOM_MODULE = "megatron.core.tensor_parallel.random"


class _Stream:
    """A stream without pending work: on a CPU, calls return when they have finished."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_stream(self, *_: Any) -> None:
        """Do nothing."""

    wait_event = record_event = synchronize = wait_stream


def enable_cpu_backend() -> bool:
    """Make megatron-core run on the CPU if there is no CUDA; return whether it does.

    Call it before process groups or models are created. Further calls have no effect.
    """
    if torch.cuda.is_available():
        return False
    if not cpu_backend_enabled():
        _replace_device_calls()
        _replace_random_generator()
        _redirect_factories()
    return True


def cpu_backend_enabled() -> bool:
    """Return whether `enable_cpu_backend` has replaced the CUDA calls of this process."""
    return getattr(torch.cuda, "Stream", None) is _Stream


def _replace_device_calls() -> None:
    cuda: Any = torch.cuda
    stream = _Stream()
    cuda.Stream = _Stream
    cuda.current_device = lambda: _CPU
    # two functions: torch.compile's table of known functions rejects the same function under two names
    cuda.current_stream = lambda *_, **__: stream
    cuda.default_stream = lambda *_, **__: stream
    cuda.stream = lambda *_, **__: contextlib.nullcontext()
    for name in ("set_device", "synchronize", "empty_cache"):
        setattr(cuda, name, lambda *_, **__: None)


def _replace_random_generator() -> None:
    """Make megatron-core use torch's CPU generator in place of CUDA's."""
    cuda: Any = torch.cuda
    cuda._lazy_init = lambda: None
    cuda._lazy_call = lambda call, **_: call()
    cuda.default_generators = {_CPU: torch.default_generator}
    cuda.manual_seed = torch.manual_seed
    for module in (cuda, cuda.random):
        module.get_rng_state = lambda *_, **__: torch.get_rng_state()
        module.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    imported: Any = sys.modules.get(_RANDOM_MODULE)
    if imported is not None:  # it imported the two functions by name
        imported._lazy_init, imported._lazy_call = cuda._lazy_init, cuda._lazy_call
    logging.getLogger(_RANDOM_MODULE).addFilter(lambda record: "CPU RNG state changed" not in record.getMessage())


def _redirect_factories() -> None:
    with (
        _CPU
    ):  # torch caches, on first use, the functions that `with torch.device(...)` affects: they must be the originals
        torch.empty(0)
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    tensor: Any = torch.Tensor
    tensor.cuda = lambda self, *_, **__: self
    tensor.type = _type_for_megatron(tensor.type)


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        wants_cuda = device is not None and str(device).startswith("cuda")
        return factory(*args, device=_CPU if wants_cuda else device, **kwargs)

    return make


def _type_for_megatron(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `tensor.type()` to return CUDA's type names to megatron-core, which compares with them."""

    @functools.wraps(original)
    def tensor_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(result, str) and not self.is_cuda and caller.startswith("megatron."):
            return result.replace("torch.", "torch.cuda.", 1)
        return result

    return tensor_type
