"""Scales of delayed scaling are saved and loaded as plain tensors.

The layers stand in for Transformer Engine's, which need a CUDA build of torch; `make test-te` does the same with those.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject

from megatron_ipt.checkpointing import fp8_scales
from megatron_ipt.checkpointing.fp8_scales import load_with_scales, with_plain_scales

NAMES = ("scaling_fwd.scale", "scaling_fwd.amax_history", "scaling_bwd.scale", "scaling_bwd.amax_history")


class Layer(torch.nn.Module):
    """Has `fp8_meta` as Transformer Engine's layers do, with tensors once it has been initialized."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(2, 2))
        self.fp8_meta: dict[str, Any] = {}

    def init_fp8_meta_tensors(self, recipe: Any) -> None:
        assert self.fp8_meta["recipe"] is recipe
        gemms = self.fp8_meta["num_gemms"]
        for part, count in (("scaling_fwd", 3 * gemms), ("scaling_bwd", 2 * gemms)):
            self.fp8_meta[part] = SimpleNamespace(scale=torch.ones(count), amax_history=torch.zeros(16, count))

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        raise AssertionError("a pickle is loaded")


class Chunk(torch.nn.Module):
    def __init__(self, fp8: str | None = "hybrid", recipe: str = "delayed") -> None:
        super().__init__()
        self.config = SimpleNamespace(fp8=fp8, fp8_recipe=recipe)
        self.first, self.second = Layer(), Layer()

    def sharded(self) -> dict[str, Any]:
        """Return the state that megatron-core would save: the parameters, and objects with pickles."""
        pickles = {
            f"{name}._extra_state": ShardedObject(f"model.{name}._extra_state", b"", (1,), (0,))
            for name in ("first", "second")
        }
        return {**dict(self.named_parameters()), **pickles}


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> object:
    made = object()
    monkeypatch.setattr(fp8_scales, "get_fp8_recipe", lambda config: made)
    return made


def used(recipe: object) -> Chunk:
    """A chunk whose first layer has computed two products of matrices."""
    chunk = Chunk()
    chunk.first.fp8_meta.update(recipe=recipe, num_gemms=2)
    chunk.first.init_fp8_meta_tensors(recipe)
    for part in ("scaling_fwd", "scaling_bwd"):
        for tensor in (chunk.first.fp8_meta[part].scale, chunk.first.fp8_meta[part].amax_history):
            tensor.uniform_()
    return chunk


def test_scales_of_layers_that_have_them_are_saved(recipe: object) -> None:
    chunk = used(recipe)
    state = with_plain_scales(chunk, chunk.sharded(), None)
    assert state.keys() == {"first.weight", "second.weight", "first.fp8_scales"}
    saved = state["first.fp8_scales"]
    assert (saved.key, saved.global_shape, saved.global_offset) == ("model.first.fp8_scales", (1,), (0,))
    assert tuple(saved.data) == NAMES
    for name, tensor in saved.data.items():
        part, what = name.split(".")
        assert torch.equal(tensor, getattr(chunk.first.fp8_meta[part], what))


@pytest.mark.parametrize("chunk", [Chunk(None), Chunk("hybrid", "tensorwise"), Chunk("hybrid", "blockwise")])
def test_other_recipes_have_no_scales(chunk: Chunk, recipe: object) -> None:
    chunk.first.fp8_meta.update(recipe=recipe, num_gemms=1)
    chunk.first.init_fp8_meta_tensors(recipe)
    assert with_plain_scales(chunk, chunk.sharded(), None).keys() == {"first.weight", "second.weight"}


def test_scales_that_a_checkpoint_lacks_are_not_requested(recipe: object) -> None:
    chunk, stored = Chunk(), used(recipe)
    saved = with_plain_scales(stored, stored.sharded(), None)["first.fp8_scales"]
    wanted = with_plain_scales(chunk, chunk.sharded(), {saved.unique_key})
    assert wanted.keys() == {"first.weight", "second.weight", "first.fp8_scales"}
    assert wanted["first.fp8_scales"].data is None
    assert with_plain_scales(chunk, chunk.sharded(), {"model.first._extra_state"}).keys() == {
        "first.weight",
        "second.weight",
    }


def test_saved_scales_are_loaded(recipe: object) -> None:
    source, target = used(recipe), Chunk()
    state = with_plain_scales(source, source.sharded(), None)
    load_with_scales(target, {**state, "first.fp8_scales": state["first.fp8_scales"].data})
    assert torch.equal(target.first.weight, source.first.weight)
    assert (target.first.fp8_meta["recipe"], target.first.fp8_meta["num_gemms"]) == (recipe, 2)
    for name in NAMES:
        part, what = name.split(".")
        assert torch.equal(getattr(target.first.fp8_meta[part], what), getattr(source.first.fp8_meta[part], what))
    assert not target.second.fp8_meta


def test_other_missing_or_unknown_weights_are_an_error() -> None:
    chunk = Chunk()
    for weights in ({"first.weight": torch.ones(2, 2)}, {**dict(chunk.named_parameters()), "third": torch.ones(1)}):
        with pytest.raises(AssertionError):
            load_with_scales(chunk, weights)
