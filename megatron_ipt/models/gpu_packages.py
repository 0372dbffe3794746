"""The packages that bring kernels for GPUs: whether what is installed under their names is what is needed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from megatron_ipt.errors import UserError

OLDEST_TRANSFORMER_ENGINE = (2, 9)
"""The oldest that megatron-core 0.16 asks for."""
_GUIDE = "docs/guides/training.md"


def check_transformer_engine() -> None:
    """Check the version of Transformer Engine, where it is installed.

    Raises:
        UserError: it is too old.
    """
    try:
        found = version("transformer_engine")
    except PackageNotFoundError:
        return
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_TRANSFORMER_ENGINE:
        oldest = ".".join(map(str, OLDEST_TRANSFORMER_ENGINE))
        raise UserError(
            "precision.transformer_impl",
            f"Transformer Engine {found}",
            f"megatron-core needs {oldest} or newer",
            f"upgrade it ({_GUIDE} lists what goes together), or set precision.transformer_impl=local",
        )


def find_other_apex() -> str | None:
    """A warning if the package apex is not NVIDIA's, whose fused Adam and LM head would be used."""
    spec = find_spec("apex")
    if spec is None or any(
        (Path(place) / "multi_tensor_apply").is_dir() for place in spec.submodule_search_locations or ()
    ):
        return None
    return (
        f"warning: the package apex in {spec.origin} is not NVIDIA's but another of that name (PyPI's): not used; "
        f"{_GUIDE} says how to build NVIDIA's"
    )
