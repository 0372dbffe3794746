"""Ranks that end while all of them start.

Until their groups are formed, ranks wait for one another in torch's store, which does not notice that one has died and
lets the others wait for half an hour. So each keeps a connection to rank 0 meanwhile, which the kernel closes when
either process ends.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NoReturn

from megatron_ipt.attempts import note_exit

_ADDRESS_KEY = "megatron_ipt/presence"
_STARTED = b"+"
_CONNECT_SECONDS = 60.0


@contextmanager
def ending_together(store: Any, rank: int, world_size: int) -> Iterator[None]:
    """Within it, this process exits with 75 when another rank ends before it has left; every rank has to enter it.

    Args:
        store: torch's store, which all ranks have reached.
    """
    with ExitStack() as resources:
        if rank == 0:
            listener = resources.enter_context(socket.create_server(("", 0), backlog=world_size))
            store.set(_ADDRESS_KEY, str(listener.getsockname()[1]))
            listener.settimeout(_CONNECT_SECONDS)
            connections = [resources.enter_context(_accept(listener)) for _ in range(world_size - 1)]
        else:
            place = os.environ["MASTER_ADDR"], int(store.get(_ADDRESS_KEY))
            connections = [resources.enter_context(socket.create_connection(place, _CONNECT_SECONDS))]
            connections[0].settimeout(None)
        watching = threading.Thread(target=_watch, args=(rank, connections), name="presence", daemon=True)
        watching.start()
        yield
        for connection in connections:
            with suppress(OSError):  # the other side has left already
                connection.sendall(_STARTED)
        watching.join()


def _accept(listener: socket.socket) -> socket.socket:
    try:
        return listener.accept()[0]
    except TimeoutError:
        _exit(0)


def _watch(rank: int, connections: list[socket.socket]) -> None:
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                if _receive(key.data) != _STARTED:
                    _exit(rank)
                selector.unregister(key.data)


def _receive(connection: socket.socket) -> bytes:
    """One byte; none if the other process has ended."""
    try:
        return connection.recv(1)
    except OSError:
        return b""


def _exit(rank: int) -> NoReturn:
    print(f"rank {rank}: another rank has ended during the start, see its output", file=sys.stderr, flush=True)
    note_exit(os.EX_TEMPFAIL)
    os._exit(os.EX_TEMPFAIL)  # the main thread waits in native code
