"""What a conversion says of folders that it cannot read, before torch is imported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_tokenizers import write_llama_3_like

from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.disk_space import require_space
from megatron_ipt.conversion.hf_files import carried_files, refuse_lfs_pointers
from megatron_ipt.conversion.megatron_lm.locate import find_megatron_lm
from megatron_ipt.conversion.sources import check_input
from megatron_ipt.errors import TemporaryFailure, UserError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 99\n"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder whose weights are not looked into here."""
    write_llama_3_like(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def check(direction: str, folder: Path) -> None:
    check_input(ConvertConfig(direction=direction, input=str(folder), output="out"))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "not an index"),
        ("[]", "not an index"),
        ('"x"', "not an index"),
        ('{"metadata": {}}', "weight_map"),
        ('{"weight_map": []}', "not an index"),
        ('{"weight_map": {"a": 1}}', "not an index"),
        ('{"weight_map": {"a": ["b"]}}', "not an index"),
        ('{"weight_map": {}}', "does not name safetensors"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "does not name safetensors"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "does not name safetensors"),
        ('{"weight_map": {"a": "b.safetensors"}}', "no index without metadata"),
        ('{"weight_map": {"a": "b.safetensors"}, "metadata": {}}', "b.safetensors, which is not there"),
        (POINTER, "Git LFS"),
        (b"\xff\xfe", "not an index"),
    ],
    ids=str,
)
def test_index_that_is_none(index: str | bytes, said: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_bytes(index if isinstance(index, bytes) else index.encode())
    with pytest.raises(UserError, match=said):
        check("hf-to-mcore", folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "README.md"])
def test_pointer_of_git_lfs_is_named(name: str, folder: Path) -> None:
    check("hf-to-mcore", folder)
    (folder / name).write_text(POINTER)
    with pytest.raises(UserError, match=f"{name}(.|\n)*Git LFS(.|\n)*git lfs pull"):
        check("hf-to-mcore", folder)


@pytest.mark.parametrize("text", ["{", "[]", "", b"\xff\xfe"], ids=str)
def test_broken_generation_settings_are_named(text: str | bytes, folder: Path) -> None:
    (folder / "generation_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"generation_config.json(.|\n)*not a JSON object"):
        check("hf-to-mcore", folder)


def test_files_shorter_than_a_pointer_are_none(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    refuse_lfs_pointers([tmp_path / "x"])


def test_what_still_holds_is_carried(folder: Path) -> None:
    holds = ["LICENSE", "NOTICE", "README.md", "generation_config.json"]
    others = [".gitattributes", "pytorch_model.bin", "pytorch_model.bin.index.json", "model.py", "chat_template.jinja"]
    for name in [*holds, *others, "special_tokens_map.json"]:
        (folder / name).touch()
    (folder / "original").mkdir()
    assert [file.name for file in carried_files(folder)] == holds


def write_torch_dist(folder: Path) -> None:
    folder.mkdir()
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))
    for name in (".metadata", "common.pt", "__0_0.distcp"):
        (folder / name).write_bytes(b"")


def write_legacy(folder: Path) -> None:
    (folder / "mp_rank_00").mkdir(parents=True)
    (folder / "mp_rank_00" / "model_optim_rng.pt").write_bytes(b"")


@pytest.mark.parametrize("direction", ["mcore-to-hf", "hf-to-mcore"])
@pytest.mark.parametrize(
    ("write", "said"), [(write_torch_dist, "Megatron-LM, torch_dist"), (write_legacy, "Megatron-LM, torch\n")]
)
def test_checkpoint_of_megatron_lm_is_recognized(
    direction: str, write: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    write(tmp_path / "iter_0000100")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100")
    for named in (tmp_path, tmp_path / "iter_0000100"):
        check("mlm-to-mcore", named)
        with pytest.raises(UserError, match=f"{said}(.|\n)*direction=mlm-to-mcore"):
            check(direction, named)


def write_torch_dcp(folder: Path) -> None:
    folder.mkdir()
    (folder / ".metadata").write_bytes(b"")


def write_zarr(folder: Path) -> None:
    folder.mkdir()
    (folder / "metadata.json").write_text('{"sharded_backend": "zarr"}')


@pytest.mark.parametrize("write", [write_torch_dcp, write_zarr])
@pytest.mark.parametrize("direction", ["mcore-to-hf", "hf-to-mcore", "mlm-to-mcore", "mcore-to-mlm"])
def test_formats_that_are_not_read(direction: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "iter_0000100")
    with pytest.raises(UserError, match="torch_dist"):
        check(direction, tmp_path)


def test_pointer_names_the_checkpoint(tmp_path: Path) -> None:
    for name in ("iter_0000100", "iter_0000200", "release"):
        write_torch_dist(tmp_path / name)
    for pointed, expected in (("100", "iter_0000100"), ("release", "release")):
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(f"{pointed}\n")
        found = find_megatron_lm(tmp_path)
        assert found is not None
        assert found.folder.name == expected
    (tmp_path / "latest_checkpointed_iteration.txt").unlink()
    found = find_megatron_lm(tmp_path)
    assert found is not None
    assert found.folder.name == "iter_0000200"


@pytest.mark.parametrize("direction", ["mlm-to-mcore", "mcore-to-mlm"])
def test_folder_without_a_checkpoint(direction: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint"):
        check(direction, tmp_path)


def test_hugging_face_folder_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(UserError, match="direction=hf-to-mcore"):
        check("mcore-to-hf", folder)


def test_full_disk_is_seen_first(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path / "not" / "there" / "yet", free // 2)
    with pytest.raises(TemporaryFailure, match="are free"):
        require_space(tmp_path / "not" / "there" / "yet", 2 * free)
