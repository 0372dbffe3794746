"""Models that do not fit where they would be built."""

from __future__ import annotations

import pytest

from megatron_ipt.errors import UserError
from megatron_ipt.training.memory_check import Need, find_shortages

GIB = 2**30


def test_ranks_of_a_node_share_its_memory() -> None:
    alone = [Need("a", 6 * GIB, 7 * GIB, 10 * GIB)]
    assert find_shortages(alone) == []
    assert find_shortages([*alone, Need("b", 6 * GIB, 7 * GIB, 10 * GIB)]) == []
    with pytest.raises(UserError, match=r"alone need 12.0 GiB, but 10.0 GiB are available to 2 rank\(s\) on a"):
        find_shortages([*alone, Need("a", 6 * GIB, 7 * GIB, 10 * GIB)])


def test_activations_are_estimated_and_give_a_warning() -> None:
    [warning] = find_shortages([Need("a", 6 * GIB, 12 * GIB, 10 * GIB), Need("b", GIB, 2 * GIB, 10 * GIB)])
    assert warning.startswith("warning: about 12.0 GiB are needed with activations, but 10.0 GiB are available")


def test_host_has_to_hold_the_copies_of_its_gpus() -> None:
    ranks = [
        need
        for gpu in (0, 1)
        for need in (Need(f"a, GPU {gpu}", 60 * GIB, 70 * GIB, 79 * GIB), Need("a", 0, 6 * GIB, 10 * GIB, "for copies"))
    ]
    assert find_shortages(ranks) == [
        "warning: about 12.0 GiB are needed for copies, but 10.0 GiB are available to 2 rank(s) on a"
    ]
