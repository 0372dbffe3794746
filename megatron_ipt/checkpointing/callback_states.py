"""States of callbacks in a checkpoint, as JSON and safetensors, without pickles.

RUN/checkpoints/iter_*/callbacks.json holds JSON values, callbacks.safetensors the tensors, if there are any.
checkpoint.json records the hashes of both, as of all other files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from megatron_ipt.checkpointing.layout import CONTENTS_NAME
from megatron_ipt.corpus.file_modes import apply_umask
from megatron_ipt.errors import UserError

CallbackState = dict[str, Any]
"""By name: tensors and JSON values (None, numbers, strings, lists, and dicts with strings as keys)."""

STATES_NAME = "callbacks.json"
TENSORS_NAME = "callbacks.safetensors"
_RECENT_LOSSES = "recent_losses"


def write_callback_states(folder: Path, states: Mapping[str, CallbackState]) -> None:
    """Write the states of callbacks, by name of the callback, into the checkpoint `folder`.

    Raises:
        UserError: a value is neither a tensor nor a JSON value.
    """
    values: dict[str, CallbackState] = {name: {} for name in states}
    tensors: dict[str, torch.Tensor] = {}
    for name, state in states.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[json.dumps([name, key])] = value.detach().cpu().contiguous()
            else:
                values[name][key] = value
    try:
        text = json.dumps(values, indent=2)
    except (TypeError, ValueError) as error:
        remedy = "return JSON values and tensors from `state_dict`"
        raise UserError("callbacks", ", ".join(values), f"a state cannot be saved: {error}", remedy) from error
    (folder / STATES_NAME).write_text(f"{text}\n", encoding="utf-8")
    if tensors:
        try:
            save_file(tensors, folder / TENSORS_NAME)
        except SafetensorError as error:
            raise OSError(f"{folder / TENSORS_NAME}: {error}") from error
        apply_umask(folder / TENSORS_NAME)


def read_callback_states(folder: Path) -> dict[str, CallbackState]:
    """Read the states in the checkpoint `folder`, by name of the callback; tensors are on the CPU.

    Raises:
        UserError: the files do not contain callback states.
    """
    file = folder / STATES_NAME
    if not file.is_file():
        return _read_earlier_states(folder)
    try:
        states: dict[str, CallbackState] = json.loads(file.read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS_NAME) if (folder / TENSORS_NAME).is_file() else {}
        for address, tensor in tensors.items():
            name, key = json.loads(address)
            states[name][key] = tensor
    except (ValueError, SafetensorError, KeyError, TypeError) as error:
        reason, remedy = f"it does not contain callback states: {error}", "use a checkpoint from a source you trust"
        raise UserError("checkpoint", file, reason, remedy) from error
    return states


def _read_earlier_states(folder: Path) -> dict[str, CallbackState]:
    """Read a checkpoint of an earlier version: checkpoint.json held the recent losses; anomalies were not counted."""
    values = json.loads((folder / CONTENTS_NAME).read_text(encoding="utf-8"))
    return {"anomalies": {"count": 0, _RECENT_LOSSES: values.get(_RECENT_LOSSES, [])}}
