"""The packages that bring kernels for GPUs: what goes together, and whether what is installed does.

Only their metadata is read: megatron-core imports Transformer Engine with whatever it then raises.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from megatron_ipt.errors import UserError

OLDEST_TRANSFORMER_ENGINE = "2.9"
"""The oldest that megatron-core 0.16 asks for."""
_GUIDE = "docs/guides/training.md"
_LISTED = f"{_GUIDE} lists what goes together"
_FIELD = "precision.transformer_impl"
_CUDA_MAJORS = ("12", "13")


@dataclass(frozen=True)
class KnownPair:
    """A release of megatron-core and the releases of Transformer Engine, from and to, that go with it, by two numbers.

    `torch` and `cuda` are what they were used with, and `known` is how.
    """

    megatron_core: str
    oldest_engine: str
    newest_engine: str
    python: str
    torch: str
    cuda: str
    known: str

    @property
    def engines(self) -> str:
        """The releases of Transformer Engine, for people."""
        oldest, newest = self.oldest_engine, self.newest_engine
        return oldest if oldest == newest else f"{oldest} to {newest}"


_NOT_RUN = "models built, checkpoints exchanged without a GPU (`make test-te`); kernels not run"
KNOWN_PAIRS = (
    KnownPair(
        "0.16", "2.9", "2.11", "3.11, 3.12", "2.6 or newer", "13", "named by megatron-core's extra `dev`; not run"
    ),
    KnownPair("0.16", "2.20", "2.20", "3.12", "2.11", "13", _NOT_RUN),
    KnownPair("0.19", "2.20", "2.20", "3.12", "2.11", "13", _NOT_RUN),
)
"""The rows of the table in docs/guides/training.md; a test compares them."""


def check_transformer_engine() -> None:
    """Check the release of Transformer Engine, where it is installed.

    Raises:
        UserError: it is too old.
    """
    found = _version("transformer_engine")
    if found is not None and _numbers(found) < _numbers(OLDEST_TRANSFORMER_ENGINE):
        reason = f"megatron-core needs {OLDEST_TRANSFORMER_ENGINE} or newer"
        raise UserError(_FIELD, f"Transformer Engine {found}", reason, f"upgrade it ({_LISTED}), or set {_FIELD}=local")


def check_installation() -> None:
    """Check that Transformer Engine can be imported, where it is installed: megatron-core does, even without using it.

    Raises:
        UserError: its parts are of several releases, or it was built for another CUDA than torch.
    """
    if (found := _version("transformer_engine")) is None:
        return
    field, value, parts = "Transformer Engine", _public(found), dict(_parts())
    for name, other in parts.items():
        if _public(other) != value:
            remedy = f"pip install transformer-engine[core_cu13,pytorch]=={other} ({_LISTED}), or uninstall it"
            raise UserError(field, value, f"{name} is {other}, and all parts have to be of one release", remedy)
    cores = [major for major in _CUDA_MAJORS if f"transformer_engine_cu{major}" in parts]
    cuda = _cuda_of_torch()
    if cores and cuda is not None and cuda not in cores:
        reason = f"it was built for CUDA {' and '.join(cores)}, and torch for CUDA {cuda}"
        remedy = f"install a torch for CUDA {cores[0]} ({_LISTED}), or uninstall Transformer Engine"
        raise UserError(field, value, reason, remedy)


def find_unknown_pair() -> str | None:
    """A warning if Transformer Engine is installed in a release that is not known to work with this megatron-core."""
    engine, core = _version("transformer_engine"), version("megatron-core")
    if engine is None:
        return None
    pairs = [pair for pair in KNOWN_PAIRS if _numbers(pair.megatron_core) == _numbers(core)]
    if any(_numbers(pair.oldest_engine) <= _numbers(engine) <= _numbers(pair.newest_engine) for pair in pairs):
        return None
    known = f"known are {', '.join(pair.engines for pair in pairs)}" if pairs else "none is known"
    return (
        f"warning: Transformer Engine {engine} has not been tried with megatron-core {core}: {known}. "
        f"If it fails, install one of {_GUIDE}, or set {_FIELD}=local"
    )


def find_unrelated_apex() -> str | None:
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


def _parts() -> Iterator[tuple[str, str]]:
    """The packages that Transformer Engine's wheels on PyPI consist of, where they are installed."""
    for name in ("transformer_engine_torch", *(f"transformer_engine_cu{major}" for major in _CUDA_MAJORS)):
        if (found := _version(name)) is not None:
            yield name, found


def _cuda_of_torch() -> str | None:
    """The major version of CUDA that torch was built for, without importing it; None for a build without CUDA."""
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    cuda = runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"]
    return None if cuda is None else str(cuda).partition(".")[0]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _public(release: str) -> str:
    """Without the build: 2.20.2+cu13 is 2.20.2."""
    return release.partition("+")[0]


def _numbers(release: str) -> tuple[int, ...]:
    """The first two numbers of a release: 2.9.0a0 is (2, 9)."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])
