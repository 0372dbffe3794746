"""Checks of datasets before a run: repeated ones, invalid amounts, documents without EOS, damaged loss masks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from megatron_ipt.config.loading import config_from
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.indexed_writer import BEGINS_DOCUMENT, HAS_LOSS, IndexedWriter
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.training.preflight import check_data

EOS = 99


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with EOS 99, and datasets in which all, none, or the first quarter of the documents end with it."""
    folder = tmp_path_factory.mktemp("blend")
    vocabulary = {f"t{number}": number for number in range(EOS)} | {"</s>": EOS}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(str(folder / "tokenizer"))
    for name, ended in (("ended", 1000), ("open", 0), ("mixed", 250)):
        with IndexedWriter(folder / name, 100) as writer:
            for number in range(1000):
                document = [] if number % 10 == 9 else [7, EOS, 8, EOS if number < ended else 9]
                writer.add(np.array(document, np.uint32), np.array([len(document)]))
    return folder


def configure(folder: Path, entries: list[dict[str, Any]], **data: Any) -> PretrainConfig:
    given = {"tokenizer": str(folder / "tokenizer"), "blend": entries, "seq_length": 16, "split": "90,10,0", **data}
    return config_from(PretrainConfig, {"run": "r", "model": {"vocab_size": 100}, "data": given})


def problems_of(folder: Path, blend: list[dict[str, Any]], **data: Any) -> tuple[Problem, ...]:
    try:
        check_data(configure(folder, blend, **data))
    except UserError as error:
        return error.problems
    return ()


def test_repeated_dataset_is_refused_however_its_path_is_spelled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").symlink_to(folder)
    for ending in (".bin", ".idx"):
        (folder / f"alias{ending}").symlink_to(folder / f"ended{ending}")
    monkeypatch.chdir(folder)
    spellings = ["ended", str(folder / "ended"), f"../{folder.name}/ended", "elsewhere/ended", "alias"]
    assert problems_of(folder, [{"prefix": "ended", "weight": 2}, {"prefix": "open"}, {"prefix": "mixed"}]) == ()
    found = problems_of(folder, [{"prefix": prefix} for prefix in ["open", *spellings]])
    assert [problem.value for problem in found] == spellings[1:]
    assert all("entry 2 of data.blend" in problem.reason for problem in found)


@pytest.mark.parametrize("amount", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("kind", ["weight", "epochs"])
def test_amount_that_is_not_finite_and_positive_is_refused(kind: str, amount: float, folder: Path) -> None:
    found = problems_of(folder, [{"prefix": str(folder / "ended")}, {"prefix": str(folder / "open"), kind: amount}])
    assert [problem.field for problem in found] == [f"data.blend[1].{kind}"]


@pytest.mark.parametrize("split", ["inf,1,0", "nan,1,0", "1e308,1e308,0", "0,0,0"])
def test_split_with_infinite_shares_is_refused(split: str, folder: Path) -> None:
    assert [p.field for p in problems_of(folder, [{"prefix": str(folder / "ended")}], split=split)] == ["data.split"]


@pytest.mark.parametrize("setting", ["reset_attention_mask", "eod_mask_loss"])
def test_settings_that_need_eos_are_refused_without_it(setting: str, folder: Path) -> None:
    entries = [{"prefix": str(folder / name)} for name in ("ended", "mixed", "open")]
    [problem] = problems_of(folder, entries, **{setting: True})
    assert problem.field == f"data.{setting}"
    assert f"no document of {folder / 'open'} ends with the EOS token {EOS}" in problem.reason
    assert "append_eod=true" in problem.remedy
    assert problems_of(folder, entries[:2], **{setting: True}) == problems_of(folder, entries) == ()


def test_dataset_that_marks_its_documents_needs_no_eos_and_keeps_its_loss_on_it(folder: Path, tmp_path: Path) -> None:
    entries = [{"prefix": str(tmp_path / "marked")}]
    write_marked(tmp_path / "marked", sequences=8, seq_length=16)
    assert problems_of(folder, entries) == problems_of(folder, entries, reset_attention_mask=True) == ()
    [problem] = problems_of(folder, entries, eod_mask_loss=True)
    assert problem.field == "data.eod_mask_loss" and "does not learn to stop" in problem.reason


def used(setting: str, prefix: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """A dataset in the blend, or as a validation set of another one."""
    if setting == "blend":
        return {"blend": [{"prefix": str(prefix)}]}
    return {"blend": [{"prefix": str(folder / "ended")}], setting: [{"name": "held_out", "prefix": str(prefix)}]}


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["missing", "empty"])
@pytest.mark.parametrize("ending", [".bin", ".idx"])
@pytest.mark.parametrize("used_as", ["blend", "validation_sets"])
def test_damaged_loss_mask_is_refused(
    used_as: str, ending: str, damage: Callable[[Path], object], folder: Path, tmp_path: Path
) -> None:
    """Without its index, a mask would be taken for none, and all tokens would have loss."""
    write_marked(tmp_path / "marked", sequences=8, seq_length=16)
    damage(tmp_path / f"marked_loss_mask{ending}")
    [problem] = problems_of(folder, **used(used_as, tmp_path / "marked", folder))
    assert problem.value == tmp_path / f"marked_loss_mask{ending}"


@pytest.mark.parametrize("used_as", ["blend", "validation_sets"])
def test_conversations_of_another_length_are_refused(used_as: str, folder: Path, tmp_path: Path) -> None:
    write_marked(tmp_path / "marked", sequences=1, seq_length=32)
    [problem] = problems_of(folder, **used(used_as, tmp_path / "marked", folder))
    assert problem.field == "data.seq_length" and "have 32 tokens" in problem.reason


def write_marked(prefix: Path, sequences: int, seq_length: int) -> None:
    ids, flags = np.full(seq_length, 7, np.uint32), np.zeros(seq_length, np.uint32)
    flags[[0, 5]], flags[-2:] = BEGINS_DOCUMENT, HAS_LOSS
    for name, values in ((prefix, ids), (Path(f"{prefix}_loss_mask"), flags)):
        with IndexedWriter(name, 100) as writer:
            writer.add(np.tile(values, sequences), np.full(sequences, seq_length))


def test_tokenizer_without_eos_is_reported_once(folder: Path) -> None:
    found = problems_of(folder, [{"prefix": str(folder / "ended")}], eod_mask_loss=True, tokenizer="nowhere")
    assert [problem.value for problem in found] == [Path("nowhere")]


def test_documents_with_several_sequences_end_with_the_last_one(folder: Path, tmp_path: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    for name, document in (("ended", [[5, 6], [7, EOS]]), ("open", [[5, EOS], [7, 8]])):
        builder = IndexedDatasetBuilder(str(tmp_path / f"{name}.bin"), dtype=np.uint16)
        for _ in range(40):
            builder.add_document([token for sentence in document for token in sentence], [2, 2])
        builder.finalize(str(tmp_path / f"{name}.idx"))
    entries = [{"prefix": str(tmp_path / name)} for name in ("ended", "open")]
    [problem] = problems_of(folder, entries, eod_mask_loss=True)
    assert str(tmp_path / "open") in problem.reason


def test_datasets_with_documents_without_eos_are_reported(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from megatron_ipt.data.blends import TokenIds, build_datasets

    entries = [{"prefix": str(folder / name)} for name in ("ended", "mixed")]
    for setting in ({}, {"reset_attention_mask": True}):
        data = configure(folder, entries, **setting).data
        with caplog.at_level(logging.WARNING):
            build_datasets(
                data,
                TokenIds(100, EOS, {}),
                train_samples=8,
                valid_samples=0,
                seed=1,
                index_cache=str(tmp_path / "cache"),
                is_built_on_rank=lambda: True,
            )
    [warning] = [record.getMessage() for record in caplog.records if record.name.startswith("megatron_ipt")]
    assert warning.startswith(f"{folder / 'mixed'}: 675 of 900 documents read do not end with the EOS token {EOS}")
