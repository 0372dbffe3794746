"""An engine on Hugging Face transformers, which runs anywhere and is the reference for the other engines."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.errors import UserError
from megatron_ipt.lm.engine import STOP, Completion, Request
from megatron_ipt.lm.loading import check_model_folder
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.system_errors import explain

_BATCHES_IN_FLIGHT = 4


class TransformersEngine:
    """Decodes greedily, in batches of prompts of similar length.

    The keys and values of the prefix that all prompts share are computed once and reused.
    """

    batch_invariant = False

    def __init__(self, config: EngineConfig, tokenizer: PromptTokenizer) -> None:
        """Load the model.

        Raises:
            UserError: the model cannot be loaded.
        """
        check_model_folder(config)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch, self._tokenizer, self._batch_size = torch, tokenizer, config.batch_size
        self.capacity = config.batch_size * _BATCHES_IN_FLIGHT
        self.devices = int(torch.cuda.is_available())
        self._device = "cuda" if self.devices else "cpu"
        try:
            self._stop_tokenizer = AutoTokenizer.from_pretrained(config.tokenizer or config.model)
            model = AutoModelForCausalLM.from_pretrained(config.model, dtype=getattr(torch, config.dtype))
        except (OSError, ValueError) as error:
            if (failure := explain(error, default_path=config.model)) is not None:
                raise failure from error
            reason = str(error).splitlines()[0]
            raise UserError("engine.model", config.model, reason, "give a Hugging Face model folder") from error
        self._model = model.to(self._device).eval()
        self._padding = tokenizer.eos_ids[0] if tokenizer.eos_ids else 0
        self._waiting: list[Request] = []
        self._prefix_ids: list[int] = []
        self._prefix_cache: Any = None

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self._waiting.append(request)

    def collect(self) -> list[Completion]:
        """Complete a batch of the queued prompts, the longest ones."""
        prefix = self._shared_prefix([request.prompt for request in self._waiting])
        self._waiting.sort(key=lambda request: (len(request.prompt), request.key))
        batch = self._waiting[-self._batch_size :]
        del self._waiting[-self._batch_size :]
        answers = self._generate([list(request.prompt[prefix:]) for request in batch], batch[0].max_new_tokens)
        return [self._completion(request.key, ids) for request, ids in zip(batch, answers, strict=True)]

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Return the mean log-likelihood per token, in nats, of each answer after its prompt."""
        scores: list[float] = []
        for start in range(0, len(prompts), self._batch_size):
            stop = start + self._batch_size
            scores += self._score_batch(list(zip(prompts[start:stop], answers[start:stop], strict=True)))
        return scores

    def close(self) -> None:
        """Release the model and the cached prefix."""
        del self._model, self._prefix_cache

    def _score_batch(self, batch: list[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        torch = self._torch
        longest = max(len(prompt) + len(answer) for prompt, answer in batch)
        # padding on the right needs no attention mask: causal attention never looks at it
        rows = [[*prompt, *answer] for prompt, answer in batch]
        ids = torch.tensor([row + [self._padding] * (longest - len(row)) for row in rows], device=self._device)
        with torch.no_grad():
            logits = self._model(ids[:, :-1]).logits.float()
        chosen = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return [
            chosen[number, len(prompt) - 1 : len(prompt) + len(answer) - 1].mean().item()
            for number, (prompt, answer) in enumerate(batch)
        ]

    def _shared_prefix(self, prompts: Sequence[Sequence[int]]) -> int:
        """Return the length of a prefix that all prompts share, and whose keys and values are cached across calls.

        The last token of a prompt is never part of it, since the model needs at least one token to continue.
        """
        first, last = min(map(list, prompts)), max(map(list, prompts))  # a prefix of both is a prefix of all
        length = 0
        while length < min(len(first), len(last)) - 1 and first[length] == last[length]:
            length += 1
        ids = first[:length]
        if self._prefix_ids and ids[: len(self._prefix_ids)] == self._prefix_ids:
            return len(self._prefix_ids)
        if len(prompts) == 1:  # a single prompt does not show which prefix the next ones will share
            ids = []
        self._prefix_ids, self._prefix_cache = ids, self._run_prefix(ids)
        return len(ids)

    def _run_prefix(self, ids: list[int]) -> Any:
        if not ids:
            return None
        with self._torch.no_grad():
            tokens = self._torch.tensor([ids], device=self._device)
            return self._model(tokens, use_cache=True).past_key_values

    def _generate(self, tails: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        torch, longest = self._torch, max(map(len, tails))
        padded = torch.tensor([[self._padding] * (longest - len(tail)) + tail for tail in tails])
        mask = torch.tensor([[0] * (longest - len(tail)) + [1] * len(tail) for tail in tails])
        prefix = torch.tensor([self._prefix_ids] * len(tails), dtype=torch.long)
        inputs = torch.cat([prefix, padded], dim=1).to(self._device)
        cache = copy.deepcopy(self._prefix_cache)  # generate() extends the cache in place
        if cache is not None:
            cache.batch_repeat_interleave(len(tails))
        with torch.no_grad():
            output = self._model.generate(
                inputs,
                attention_mask=torch.cat([torch.ones_like(prefix), mask], dim=1).to(self._device),
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self._padding,
                stop_strings=[STOP],
                tokenizer=self._stop_tokenizer,
            )
        answers: list[list[int]] = output[:, inputs.shape[1] :].tolist()
        return answers

    def _completion(self, key: int, ids: list[int]) -> Completion:
        ends = [ids.index(eos) for eos in self._tokenizer.eos_ids if eos in ids]
        text, _, _ = self._tokenizer.decode(ids).partition(STOP)
        return Completion(key, text, min(ends, default=len(ids)))
