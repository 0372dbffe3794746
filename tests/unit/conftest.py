"""What several unit tests share."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sentencepiece_file(quickstart_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mistral-7B-v0.1's sentencepiece model, as it stands in its wheel."""
    file = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model.v1"
    (wheel_file,) = (quickstart_inputs / "wheels").glob("mistral_common-*.whl")
    with zipfile.ZipFile(wheel_file) as wheel:
        file.write_bytes(wheel.read("mistral_common/data/tokenizer.model.v1"))
    return file
