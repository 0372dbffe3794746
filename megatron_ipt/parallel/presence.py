"""Detection of ranks that exit during start-up.

Until their process groups exist, ranks wait for one another in torch's store, which does not detect that one has died
and lets the others wait until the timeout. Therefore each rank keeps a connection to rank 0 during start-up, which the
operating system closes when either process ends.
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

from megatron_ipt.attempts import record_exit

_ADDRESS_KEY = "megatron_ipt/presence"
_STARTED = b"+"
_CONNECT_SECONDS = 60.0


@contextmanager
def exiting_together(store: Any, rank: int, world_size: int) -> Iterator[None]:
    """Exit with 75 if another rank exits before it has left this context; every rank has to enter it.

    Args:
        store: torch's store, which all ranks have joined.
        rank: the rank of this process.
        world_size: the number of ranks.
    """
    with ExitStack() as resources:
        if rank == 0:
            listener = resources.enter_context(socket.create_server(("", 0), backlog=world_size))
            store.set(_ADDRESS_KEY, str(listener.getsockname()[1]))
            listener.settimeout(_CONNECT_SECONDS)
            connections = [resources.enter_context(_accept(listener)) for _ in range(world_size - 1)]
        else:
            address = os.environ["MASTER_ADDR"], int(store.get(_ADDRESS_KEY))
            connections = [resources.enter_context(socket.create_connection(address, _CONNECT_SECONDS))]
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
    """Receive one byte; return none if the other process has ended."""
    try:
        return connection.recv(1)
    except OSError:
        return b""


def _exit(rank: int) -> NoReturn:
    print(f"rank {rank}: another rank has exited during start-up, see its output", file=sys.stderr, flush=True)
    record_exit(os.EX_TEMPFAIL)
    os._exit(os.EX_TEMPFAIL)  # sys.exit would not end the main thread, which waits in native code
