"""Compatibility of the packages that provide GPU kernels: Transformer Engine and apex.

Only the metadata of packages is read: megatron-core imports Transformer Engine, and does not handle its import errors.
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
"""The oldest release that megatron-core 0.16 supports."""
_GUIDE = "docs/guides/training.md"
_LISTED = f"{_GUIDE} lists compatible releases"
_FIELD = "precision.transformer_impl"
_CUDA_MAJORS = ("12", "13")


@dataclass(frozen=True)
class KnownPair:
    """A release of megatron-core with the range of releases of Transformer Engine that work with it (MAJOR.MINOR).

    `torch` and `cuda` are the versions they were used with, and `known` is the evidence.
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
        """A description of the releases of Transformer Engine."""
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
    """Check the release of Transformer Engine, if it is installed.

    Raises:
        UserError: it is too old.
    """
    found = _version("transformer_engine")
    if found is not None and _numbers(found) < _numbers(OLDEST_TRANSFORMER_ENGINE):
        reason = f"megatron-core needs {OLDEST_TRANSFORMER_ENGINE} or newer"
        raise UserError(_FIELD, f"Transformer Engine {found}", reason, f"upgrade it ({_LISTED}), or set {_FIELD}=local")


def check_installation() -> None:
    """Check that Transformer Engine, if installed, can be imported: megatron-core imports it even if it is not used.

    Raises:
        UserError: its parts are of different releases, or it was built for a different CUDA version than torch.
    """
    if (found := _version("transformer_engine")) is None:
        return
    field, value, parts = "Transformer Engine", _public(found), dict(_parts())
    for name, other in parts.items():
        if _public(other) != value:
            remedy = f"pip install transformer-engine[core_cu13,pytorch]=={other} ({_LISTED}), or uninstall it"
            raise UserError(field, value, f"{name} is {other}, but all parts must be of the same release", remedy)
    cores = [major for major in _CUDA_MAJORS if f"transformer_engine_cu{major}" in parts]
    cuda = _cuda_of_torch()
    if cores and cuda is not None and cuda not in cores:
        reason = f"it was built for CUDA {' and '.join(cores)}, but torch for CUDA {cuda}"
        remedy = f"install a torch for CUDA {cores[0]} ({_LISTED}), or uninstall Transformer Engine"
        raise UserError(field, value, reason, remedy)


def find_unknown_pair() -> str | None:
    """Return a warning if the installed Transformer Engine is not known to work with this megatron-core, else None."""
    engine, core = _version("transformer_engine"), version("megatron-core")
    if engine is None:
        return None
    pairs = [pair for pair in KNOWN_PAIRS if _numbers(pair.megatron_core) == _numbers(core)]
    if any(_numbers(pair.oldest_engine) <= _numbers(engine) <= _numbers(pair.newest_engine) for pair in pairs):
        return None
    known = f"known to work: {', '.join(pair.engines for pair in pairs)}" if pairs else "none is known to work"
    return (
        f"warning: Transformer Engine {engine} has not been tested with megatron-core {core} ({known}). "
        f"If it fails, install a release from {_GUIDE}, or set {_FIELD}=local"
    )


def find_unrelated_apex() -> str | None:
    """Return a warning if the installed package apex is not NVIDIA's (which provides fused kernels), else None."""
    spec = find_spec("apex")
    if spec is None or any(
        (Path(folder) / "multi_tensor_apply").is_dir() for folder in spec.submodule_search_locations or ()
    ):
        return None
    return (
        f"warning: the package apex in {spec.origin} is not used: it is not NVIDIA's, but an unrelated package of that "
        f"name on PyPI; {_GUIDE} describes how to build NVIDIA's"
    )


def _parts() -> Iterator[tuple[str, str]]:
    """Yield the name and version of each installed package of Transformer Engine."""
    for name in ("transformer_engine_torch", *(f"transformer_engine_cu{major}" for major in _CUDA_MAJORS)):
        if (found := _version(name)) is not None:
            yield name, found


def _cuda_of_torch() -> str | None:
    """Return the major version of CUDA of the installed torch, without importing it; None for a build without CUDA."""
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
    """Remove the local version: 2.20.2+cu13 is 2.20.2."""
    return release.partition("+")[0]


def _numbers(release: str) -> tuple[int, ...]:
    """Return the first two numbers of a release: 2.9.0a0 is (2, 9)."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])
