"""Packages for GPUs that are too old, or another's of the same name."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from megatron_ipt.errors import UserError
from megatron_ipt.models.gpu_packages import check_transformer_engine, find_other_apex


@pytest.mark.parametrize(("version", "is_old"), [("2.4.0", True), ("2.9.0", False), ("2.20.2+cu13", False)])
def test_old_transformer_engine_is_refused(
    version: str, is_old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / f"transformer_engine-{version}.dist-info"
    metadata.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: transformer_engine", f"Version: {version}", ""]
    (metadata / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    if not is_old:
        check_transformer_engine()
        return
    with pytest.raises(UserError, match=r"Transformer Engine 2\.4\.0") as raised:
        check_transformer_engine()
    assert "transformer_impl=local" in raised.value.problems[0].remedy


def test_apex_of_another_project_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_other_apex() is None
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("")
    importlib.invalidate_caches()
    warning = find_other_apex()
    assert warning is not None and "is not NVIDIA's" in warning
    (tmp_path / "apex" / "multi_tensor_apply").mkdir()
    assert find_other_apex() is None
