"""Failures of collective calls that mean a lost rank."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
import torch.distributed as dist

from megatron_ipt.errors import TemporaryFailure
from megatron_ipt.parallel.agreement import is_lost_contact
from megatron_ipt.parallel.groups import join_store


def test_rank_that_never_joins_is_a_lost_one() -> None:
    with pytest.raises(RuntimeError) as raised:
        dist.TCPStore("127.0.0.1", 0, world_size=2, is_master=True, timeout=timedelta(seconds=1))
    assert is_lost_contact(raised.value)


def test_main_rank_that_cannot_be_reached_is_a_lost_one() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(RuntimeError) as raised:
            dist.TCPStore("127.0.0.1", port, world_size=2, is_master=False, timeout=timedelta(seconds=1))
    assert is_lost_contact(raised.value)


def test_port_in_use_is_not_a_lost_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TemporaryFailure, match=f"port {port} .* is in use"):
            join_store()


def test_other_errors_are_not() -> None:
    assert not is_lost_contact(RuntimeError("shape mismatch"))
