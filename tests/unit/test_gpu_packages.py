"""Packages for GPUs that are too old, or another's of the same name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from megatron_ipt.errors import UserError
from megatron_ipt.models.gpu_packages import (
    KNOWN_PAIRS,
    check_installation,
    check_transformer_engine,
    find_unknown_pair,
    find_unrelated_apex,
)

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "training.md"


def install(folder: Path, packages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves of packages of these versions, and of a torch for CUDA 13 instead of the one that is here."""
    for name, version in packages.items():
        metadata = folder / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").touch()
    (folder / "torch" / "version.py").write_text("cuda = '13.0'\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.parametrize(("version", "is_old"), [("2.4.0", True), ("2.9.0", False), ("2.20.2+cu13", False)])
def test_old_transformer_engine_is_refused(
    version: str, is_old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, {"transformer_engine": version}, monkeypatch)
    if not is_old:
        check_transformer_engine()
        return
    with pytest.raises(UserError, match=r"Transformer Engine 2\.4\.0") as raised:
        check_transformer_engine()
    assert "transformer_impl=local" in raised.value.problems[0].remedy


def test_apex_of_another_project_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_unrelated_apex() is None
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("")
    importlib.invalidate_caches()
    warning = find_unrelated_apex()
    assert warning is not None and "is not NVIDIA's" in warning
    (tmp_path / "apex" / "multi_tensor_apply").mkdir()
    assert find_unrelated_apex() is None


@pytest.mark.parametrize(
    ("core", "torch_part", "cuda", "told"),
    [
        ("2.20.2", "2.20.2", "13", None),
        ("2.20.2+cu13", "2.20.2+torch2.11", "13", None),
        ("2.20.2", "2.19.0", "13", "transformer_engine_torch is 2.19.0"),
        ("2.20.2", "2.20.2", "12", "built for CUDA 12, but torch for CUDA 13"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(
    core: str, torch_part: str, cuda: str, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"transformer_engine": core, "transformer_engine_torch": torch_part, f"transformer_engine_cu{cuda}": core}
    install(tmp_path, parts, monkeypatch)
    if told is None:
        check_installation()
        return
    with pytest.raises(UserError) as raised:
        check_installation()
    [problem] = raised.value.problems
    assert told in problem.reason and "docs/guides/training.md" in problem.remedy


@pytest.mark.parametrize(
    ("core", "engine", "known"),
    [
        ("0.16.1", "2.9.0a0", True),
        ("0.16.1", "2.11.3", True),
        ("0.16.1", "2.15.0", False),
        ("0.16.1", "2.20.2", True),
        ("0.19.2", "2.10.0", False),
        ("0.19.2", "2.20.2", True),
        ("0.18.0", "2.20.2", False),
    ],
)
def test_pair_that_has_not_been_tried_is_named(
    core: str, engine: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, {"transformer_engine": engine, "megatron_core": core}, monkeypatch)
    warning = find_unknown_pair()
    assert (warning is None) == known
    assert warning is None or f"Transformer Engine {engine} has not been tested with megatron-core {core}" in warning


def test_guide_shows_the_known_pairs() -> None:
    shown = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("| 0.")]
    assert shown == [
        f"| {pair.megatron_core} | {pair.engines} | {pair.python} | {pair.torch} | {pair.cuda} | {pair.known} |"
        for pair in KNOWN_PAIRS
    ]
