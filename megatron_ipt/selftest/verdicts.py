"""The verdicts of all ranks on each check, exchanged through a store that needs no process group."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from megatron_ipt.errors import UserError
from megatron_ipt.system_errors import explain

PASS, FAIL, SKIPPED = "PASS", "FAIL", "SKIPPED"
_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check.

    Attributes:
        check: the name of the check.
        status: PASS, FAIL or SKIPPED.
        detail: what was found, or the reason.
    """

    check: str
    status: str
    detail: str


class Skip(Exception):
    """Raised by a check that cannot be made here; its text is the reason."""


class Failure(Exception):
    """Raised by a check that fails; its text is the reason."""


class Ranks:
    """The ranks that torchrun or srun started, or this process alone."""

    def __init__(self, process_groups: Sequence[str]) -> None:
        """Wait for all ranks; a collective call, like every method.

        Args:
            process_groups: names for the process groups that will be formed one after the other.
        """
        torch_distributed: Any = dist  # torch's type stubs do not export the stores
        self._is_launched = "RANK" in os.environ
        if self._is_launched:
            store, self.rank, self.world_size = next(torch_distributed.rendezvous("env://", timeout=_TIMEOUT))
        else:
            store, self.rank, self.world_size = torch_distributed.HashStore(), 0, 1
        self._store = torch_distributed.PrefixStore("megatron_ipt/selftest", store)
        self._store.set_timeout(_TIMEOUT)
        ports = self.share("ports", lambda: json.dumps(_free_ports(len(process_groups))))
        self._ports = dict(zip(process_groups, json.loads(ports), strict=True))

    def share(self, name: str, make: Callable[[], str]) -> str:
        """Return what `make` returns on rank 0; `name` must be new."""
        if self.rank == 0:
            self._store.set(name, make())
        return str(self._store.get(name).decode())

    def prepare_process_group(self, name: str) -> None:
        """Let the next process group, one of those named at the start, use a port of its own."""
        if self._is_launched:
            os.environ["MASTER_PORT"] = str(self._ports[name])
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # rank 0 opens that port, not torchrun

    def judge(self, name: str, check: Callable[[], str]) -> Verdict:
        """Make a check on every rank.

        Args:
            name: its name, which must be new.
            check: returns what it found, or raises `Skip` or an error.

        Returns:
            The verdict of rank 0, unless another rank fails.
        """
        self._store.set(f"{name}/{self.rank}", json.dumps(asdict(_attempt(name, check))))

        def combine() -> str:
            verdicts = [Verdict(**json.loads(self._store.get(f"{name}/{rank}"))) for rank in range(self.world_size)]
            return json.dumps(asdict(_combine(verdicts)))

        return Verdict(**json.loads(self.share(name, combine)))

    def leave(self) -> None:
        """Wait on rank 0, which holds the store, until all other ranks have read from it for the last time."""
        if self.rank:
            self._store.set(f"left/{self.rank}", "")
        else:
            self._store.wait([f"left/{rank}" for rank in range(1, self.world_size)])


def _attempt(name: str, check: Callable[[], str]) -> Verdict:
    try:
        return Verdict(name, PASS, check())
    except Skip as reason:
        return Verdict(name, SKIPPED, str(reason))
    except Exception as error:
        return Verdict(name, FAIL, f"{_describe(error)} (rank {os.environ.get('RANK', '0')} on {platform.node()})")


def _describe(error: Exception) -> str:
    failure = explain(error)
    if isinstance(failure, UserError):
        return "; ".join(f"{each.field} = {each.value}: {each.reason}; {each.remedy}" for each in failure.problems)
    if failure is not None or isinstance(error, Failure):
        return str(failure or error)
    traceback.print_exc(file=sys.stderr)
    return f"{type(error).__name__}: {error}"


def _combine(verdicts: Sequence[Verdict]) -> Verdict:
    return next((verdict for verdict in verdicts if verdict.status == FAIL), verdicts[0])


def _free_ports(count: int) -> list[int]:
    with ExitStack() as listeners:
        sockets = [listeners.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]
