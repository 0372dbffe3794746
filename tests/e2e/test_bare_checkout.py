"""A checkout that was never installed, as on a machine without a network, works like an installed one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_ipt import __version__
from megatron_ipt.corpus.indexed_writer import IndexedWriter

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
NAMES = "from importlib.metadata import distributions; print([one.name for one in distributions()])"
MIX = ["datasets.a=data", "variants.one.a.epochs=1", "output=blends", "global_batch_size=2", "seq_length=8", "split=1"]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs Python in `tmp_path` with a checkout and every package of this environment but our own; what it prints."""
    checkout, packages = tmp_path / "checkout", tmp_path / "packages"
    for folder in (checkout, packages):
        folder.mkdir()
    for name in ("megatron_ipt", "tools"):
        (checkout / name).symlink_to(ROOT / name)  # without the metadata that building a wheel leaves beside them
    for site in (Path(entry) for entry in sys.path if Path(entry).name == "site-packages"):
        for entry in site.iterdir():
            if "megatron_ipt" not in entry.name and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)

    def run(*arguments: str) -> str:
        command = [sys.executable, "-S", *arguments]  # -S: without this environment's own folder of packages
        environment = {"PYTHONPATH": f"{checkout}:{packages}"}
        result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_tool_of_a_bare_checkout_runs_and_names_its_version(run: Callable[..., str], tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "data", 100) as writer:
        writer.add(np.arange(400, dtype=np.uint32) % 100, np.full(10, 40))
    installed = run("-c", NAMES)
    assert "'megatron-core'" in installed and "'megatron-ipt'" not in installed
    assert "blend.one.yaml" in run("checkout/tools/build_mixture.py", *MIX)
    versions = json.loads((tmp_path / "blends" / "manifest.json").read_text())["versions"]
    assert versions["megatron-ipt"] == __version__
    assert {"torch", "megatron-core", "transformers"} < versions.keys()
