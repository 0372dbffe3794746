"""Files of torch.save from elsewhere, read as data: no class and no function that they name is imported or called."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from megatron_ipt.errors import UserError

_UNREADABLE = (
    OSError,
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)
"""The exceptions that torch raises on a damaged file, depending on where the damage is."""
_TORCH_SAYS = "WeightsUnpickler error:"
_READING = Lock()  # what torch may make is a setting of the whole process


class Inert:
    """Placeholder for an object of an unknown class, which holds the values that it was made of.

    Attributes:
        arguments: positional arguments of the class or function that was not called.
        state: the state that the object was pickled with, such as the attributes of an argparse.Namespace.
    """

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Inert:
        """Keep `arguments`."""
        inert = super().__new__(cls)
        inert.arguments, inert.state = arguments, None
        return inert

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.arguments}"


def read_inert(file: Path | io.BytesIO, name: Path) -> Any:
    """Read what torch.save wrote: tensors and plain values as they are, everything else as `Inert`.

    torch reads with weights_only=True; each name in the file that torch does not know itself means a class made here,
    which does nothing. Tensors of a file are mapped into memory, and read when they are used.

    Args:
        file: a path, or the content.
        name: of the file, for errors.

    Raises:
        UserError: the file is damaged, or holds what torch refuses even so.
    """
    try:
        with _READING, _no_allowed_globals():
            unknown = torch.serialization.get_unsafe_globals_in_checkpoint(file)  # disassembles, executes nothing
            if isinstance(file, io.BytesIO):
                file.seek(0)
            with torch.serialization.safe_globals([_inert_class(path) for path in unknown]):
                return torch.load(file, weights_only=True, map_location="cpu", mmap=isinstance(file, Path))
    except _UNREADABLE as error:
        raise UserError(
            "input",
            name,
            f"it cannot be read as data: {_reason(error)}",
            "use a checkpoint from a source you trust, saved by Megatron-LM",
        ) from error


def _reason(error: BaseException) -> str:
    """Of torch's long messages, the sentence that says what was found."""
    before, _, after = str(error).partition(_TORCH_SAYS)
    return ((after or before).strip().splitlines() or [type(error).__name__])[0]


def _inert_class(path: str) -> type[Inert]:
    module, _, name = path.rpartition(".")
    return type(name, (Inert,), {"__module__": module, "__qualname__": name})


@contextmanager
def _no_allowed_globals() -> Iterator[None]:
    """Within it, what megatron-core or others have allowed torch to make is not allowed."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)
