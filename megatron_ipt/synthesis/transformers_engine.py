"""Hugging Face transformers as the engine: runs anywhere, and is the reference for the others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.engine import Generation

_DTYPES = ("float32", "bfloat16", "float16")
_STOP = "<CON>"


class TransformersEngine:
    """A causal language model, greedy, in batches of prompts of like length.

    The tokens with which all prompts of a call begin are run through the model once.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Load model and tokenizer.

        Raises:
            UserError: the model cannot be loaded, or the dtype is not known.
        """
        if config.dtype not in _DTYPES:
            raise UserError("engine.dtype", config.dtype, "no such number format", f"one of {', '.join(_DTYPES)}")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch, self._batch_size = torch, config.batch_size
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(config.model)
            model = AutoModelForCausalLM.from_pretrained(config.model, dtype=getattr(torch, config.dtype))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError("engine.model", config.model, reason, "name a Hugging Face model folder") from error
        self._model = model.to(self._device).eval()
        self.bos_ids = _present(self._tokenizer.bos_token_id)
        self.eos_ids = _present(self._tokenizer.eos_token_id)
        self._prefix_ids: list[int] = []
        self._prefix_cache: Any = None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def cut(self, text: str, max_tokens: int) -> str:
        """The beginning of `text` that takes at most `max_tokens` tokens, ending with a whole word."""
        offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        if len(offsets) <= max_tokens:
            return text
        beginning: str = text[: offsets[max(max_tokens, 1) - 1][1]]
        whole, space, _ = beginning.rpartition(" ")
        return whole if space else beginning

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Generation]:
        """Greedy continuation of each prompt, in order; it ends with EOS or where another context begins."""
        prefix = self._shared_prefix(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        results: dict[int, Generation] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            tails = [list(prompts[index][prefix:]) for index in batch]
            results.update(zip(batch, self._generate_batch(tails, max_new_tokens), strict=True))
        return [results[index] for index in range(len(prompts))]

    def _shared_prefix(self, prompts: Sequence[Sequence[int]]) -> int:
        """Tokens with which all prompts begin; their keys and values are kept from call to call."""
        first, last = min(map(list, prompts)), max(map(list, prompts))
        length = 0
        while length < min(len(first), len(last)) - 1 and first[length] == last[length]:
            length += 1
        ids = first[:length]
        if len(prompts) > 1 and ids[: len(self._prefix_ids)] == self._prefix_ids and self._prefix_ids:
            return len(self._prefix_ids)
        self._prefix_ids, self._prefix_cache = ids, self._run_prefix(ids)
        return length

    def _run_prefix(self, ids: list[int]) -> Any:
        if not ids:
            return None
        with self._torch.no_grad():
            tokens = self._torch.tensor([ids], device=self._device)
            return self._model(tokens, use_cache=True).past_key_values

    def _generate_batch(self, tails: list[list[int]], max_new_tokens: int) -> list[Generation]:
        torch, longest = self._torch, max(map(len, tails))
        padding = self.eos_ids[0] if self.eos_ids else 0
        padded = torch.tensor([[padding] * (longest - len(tail)) + tail for tail in tails])
        mask = torch.tensor([[0] * (longest - len(tail)) + [1] * len(tail) for tail in tails])
        prefix = torch.tensor([self._prefix_ids] * len(tails), dtype=torch.long)
        inputs = torch.cat([prefix, padded], dim=1).to(self._device)
        cache = copy.deepcopy(self._prefix_cache)
        if cache is not None:
            cache.batch_repeat_interleave(len(tails))
        with torch.no_grad():
            output = self._model.generate(
                inputs,
                attention_mask=torch.cat([torch.ones_like(prefix), mask], dim=1).to(self._device),
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=padding,
                stop_strings=[_STOP],
                tokenizer=self._tokenizer,
            )
        return [self._generation(ids) for ids in output[:, inputs.shape[1] :].tolist()]

    def _generation(self, ids: list[int]) -> Generation:
        ends = [ids.index(eos) for eos in self.eos_ids if eos in ids]
        own = ids[: min(ends, default=len(ids))]
        return Generation(self._tokenizer.decode(own, skip_special_tokens=True), len(own))


def _present(token_id: int | None) -> list[int]:
    return [] if token_id is None else [token_id]


def load_engine(config: EngineConfig) -> TransformersEngine:
    """The engine that `config.kind` names.

    Raises:
        UserError: there is no such engine, or its model cannot be loaded.
    """
    if config.kind != "transformers":
        raise UserError("engine.kind", config.kind, "no such engine", "use transformers")
    is_path = config.model.startswith((".", "/")) or config.model.count("/") > 1
    if is_path and not Path(config.model).is_dir():
        raise UserError("engine.model", config.model, "no such folder", "check the path")
    return TransformersEngine(config)
