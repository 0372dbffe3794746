"""The loss-masked dataset: sequences and samples are aligned, and the mask applies to the labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.config.pretrain import BlendEntry, DataConfig
from megatron_ipt.corpus.indexed_writer import BEGINS_DOCUMENT, HAS_LOSS, IndexedWriter
from megatron_ipt.errors import UserError
from megatron_ipt.parallel.groups import shutdown

SEQ_LENGTH, SEQUENCES = 16, 12


def write(prefix: Path, rows: np.ndarray) -> None:
    with IndexedWriter(prefix, 1000) as writer:
        writer.add(rows.astype(np.uint32).ravel(), np.full(len(rows), rows.shape[1]))


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """Sequence n holds the ids 20 n, 20 n + 1, ...; ids with an odd last digit other than 1 have loss."""
    rows = np.arange(SEQUENCES)[:, None] * 20 + np.arange(SEQ_LENGTH)
    write(tmp_path / "set", rows)
    write(tmp_path / "set_loss_mask", carries_loss(rows))
    return tmp_path / "set"


def carries_loss(ids: np.ndarray) -> np.ndarray:
    return (ids % 20 > 1) & (ids % 2 == 1)


def samples(prefixes: list[Path], count: int) -> list[dict[str, np.ndarray]]:
    train = dataset(prefixes, count)
    return [{name: np.asarray(value) for name, value in train[number].items()} for number in range(count)]


def dataset(prefixes: list[Path], count: int, eos: int = 999, **settings: Any) -> Any:
    from megatron_ipt.data.blends import TokenIds, build_datasets

    blend = [BlendEntry(prefix=str(one)) for one in prefixes]
    data = DataConfig(tokenizer="", blend=blend, split="1,0,0", seq_length=SEQ_LENGTH, **settings)
    train, _ = build_datasets(
        data,
        TokenIds(1000, eos, {}),
        train_samples=count,
        valid_samples=0,
        seed=1,
        index_cache=str(prefixes[0].parent / "cache"),
        is_built_on_rank=lambda: True,
    )
    return train


def test_samples_are_complete_sequences_with_loss_on_masked_labels(prefix: Path) -> None:
    epochs = 3
    found = samples([prefix], SEQUENCES * epochs - 1)
    for sample in found:
        assert sample["tokens"][0] % 20 == 0
        assert (np.diff(sample["tokens"]) == 1).all()
        assert (sample["loss_mask"] == carries_loss(sample["labels"])).all()
        assert sample["loss_mask"][-1] == 0  # its label is the first token of the next sequence
    seen = np.bincount([sample["tokens"][0] // 20 for sample in found])
    assert seen.sum() == SEQUENCES * epochs - 1 and (seen >= epochs - 1).all()


def test_documents_begin_where_the_mask_says_so_and_not_after_eos(tmp_path: Path) -> None:
    """Conversations of 5, 7 and 4 tokens, in which EOS (8) ends every other token's turn."""
    ids = np.tile([7, 8], (SEQUENCES, SEQ_LENGTH // 2))
    flags = np.tile([0, HAS_LOSS], (SEQUENCES, SEQ_LENGTH // 2))
    flags[:, [0, 5, 12]] |= BEGINS_DOCUMENT
    for name, rows in (("set", ids), ("set_loss_mask", flags), ("plain", ids)):
        write(tmp_path / name, rows)
    expected = [*range(5), *range(7), *range(4)]
    train = dataset([tmp_path / "set"], SEQUENCES, eos=8, reset_attention_mask=True)
    for sample in (train[number] for number in range(SEQUENCES)):
        assert sample["position_ids"].tolist() == expected
        assert sample["loss_mask"].tolist() == [1, 0] * 8
    plain = dataset([tmp_path / "plain"], SEQUENCES, eos=8, reset_attention_mask=True)[0]
    assert plain["position_ids"].tolist() == [0, 1] * 8
    whole = dataset([tmp_path / "set"], SEQUENCES, eos=8)[0]
    assert whole["position_ids"].tolist() == list(range(SEQ_LENGTH))


def test_padding_sample_has_no_loss(prefix: Path) -> None:
    assert dataset([prefix], 4)[None]["loss_mask"].sum() == 0


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of one, because megatron-core's blends read their rank."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    shutdown()


@pytest.mark.usefixtures("one_rank")
def test_datasets_with_and_without_a_mask_can_be_blended(prefix: Path) -> None:
    plain = prefix.with_name("plain")
    write(plain, np.full((SEQUENCES, SEQ_LENGTH), 500))
    found = samples([prefix, plain], 16)
    learnt = [sample["loss_mask"].sum() for sample in found if sample["tokens"][0] == 500]
    masked = [sample["loss_mask"].sum() for sample in found if sample["tokens"][0] < 500]
    assert set(learnt) == {SEQ_LENGTH} and set(masked) == {7}
    assert len(learnt) == len(masked) == 8


@pytest.mark.parametrize(
    "shape",
    [(SEQUENCES, SEQ_LENGTH - 1), (SEQUENCES - 1, SEQ_LENGTH), (1, SEQ_LENGTH)],
    ids=["shorter documents", "a document fewer", "one document"],
)
def test_mask_of_other_documents_is_refused(prefix: Path, shape: tuple[int, int]) -> None:
    write(prefix.with_name("set_loss_mask"), np.ones(shape))
    with pytest.raises(UserError, match="not as long"):
        samples([prefix], 4)
