"""Any server that speaks OpenAI's completions protocol and takes prompts as token ids, as vLLM's does."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.engines.engine import STOP, Generation, Request

_REFUSED_STATUSES = (400, 404, 413, 422)
_TRIES_AT_MALFORMED = 5


class EndpointEngine:
    """Requests in flight on one event loop, in a thread of its own.

    The client tries again, waiting longer each time or as long as the server asks, what fails in passing: time-outs,
    lost connections, 408, 409, 429 and 5xx. A prompt that the server refuses, or still fails at while it answers
    others, is given up; a server that answers nothing any more ends the run.
    """

    depends_on_company = False
    devices = 0

    def __init__(self, config: EngineConfig) -> None:
        """Open the client; the first request tells whether anybody listens."""
        from openai import AsyncOpenAI

        given = config.endpoint
        self.capacity = given.concurrency
        self._model, self._url = config.model, given.url
        self._seconds_a_request = 60.0 / given.requests_per_minute if given.requests_per_minute else 0.0
        self._next_start_seconds = 0.0
        self._answered = 0
        self._done: queue.Queue[Generation | UserError] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncOpenAI(
            base_url=given.url,
            api_key=os.environ.get(given.api_key_variable, "none"),
            timeout=given.timeout_seconds,
            max_retries=given.max_retries,
        )

    def submit(self, request: Request) -> None:
        """Send a request."""
        asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)

    def collect(self) -> list[Generation]:
        """Wait for an answer, and hand out all that have come."""
        found = [self._done.get()]
        while not self._done.empty():
            found.append(self._done.get())
        return [_raised(one) for one in found]

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Mean log-likelihood per token, in nats, of each answer after its prompt; the server has to echo prompts."""
        return asyncio.run_coroutine_threadsafe(self._score_all(prompts, answers), self._loop).result()

    def close(self) -> None:
        """Drop what is in flight and stop the loop."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _drop(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def _answer(self, request: Request) -> None:
        answered_before = self._answered
        try:
            choice, tokens = await self._ask(request.prompt, request.max_new_tokens, stop=[STOP])
            self._answered += 1
            self._done.put(Generation(request.key, choice.text, tokens))
        except _Refused as refused:
            if refused.is_final or self._answered > answered_before:
                self._done.put(Generation(request.key, "", 0, failure=refused.reason))
            else:
                self._done.put(_gone(self._url, refused.reason))

    async def _score_all(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        limit = asyncio.Semaphore(self.capacity)
        return await asyncio.gather(*(self._score(*one, limit) for one in zip(prompts, answers, strict=True)))

    async def _score(self, prompt: Sequence[int], answer: Sequence[int], limit: asyncio.Semaphore) -> float:
        try:
            async with limit:
                choice, _ = await self._ask([*prompt, *answer], 1, echo=True, logprobs=0)
        except _Refused as refused:
            raise _gone(self._url, refused.reason) from refused
        if choice.logprobs is None or not choice.logprobs.token_logprobs:
            reason = "the server tells no log-likelihoods of prompts"
            raise UserError("gates.min_answer_gain", self._url, reason, "leave this gate off, or use another engine")
        own = choice.logprobs.token_logprobs[len(prompt) : len(prompt) + len(answer)]
        return sum(own) / len(own)

    async def _ask(self, prompt: Sequence[int], max_tokens: int, **settings: Any) -> tuple[Any, int]:
        """The one choice of a completion, and its tokens."""
        import openai

        for _ in range(_TRIES_AT_MALFORMED):
            await self._wait_for_turn()
            try:
                completion = await self._client.completions.create(
                    model=self._model, prompt=list(prompt), max_tokens=max_tokens, temperature=0.0, **settings
                )
                usage = completion.usage
                return completion.choices[0], usage.completion_tokens if usage else 0
            except openai.APIStatusError as error:
                is_final = error.status_code in _REFUSED_STATUSES
                raise _Refused(f"HTTP {error.status_code}", is_final=is_final) from error
            except openai.APIConnectionError as error:
                raise _Refused(str(error.__cause__ or error), is_final=False) from error
            except (ValueError, TypeError, AttributeError, IndexError, openai.APIResponseValidationError):
                continue  # not the protocol: half an answer, or a proxy's page
        raise _Refused("answers that are not the protocol's", is_final=False)

    async def _wait_for_turn(self) -> None:
        start_seconds = max(time.monotonic(), self._next_start_seconds)
        self._next_start_seconds = start_seconds + self._seconds_a_request
        await asyncio.sleep(start_seconds - time.monotonic())


class _Refused(Exception):
    """A request came to nothing; `is_final`: it would again."""

    def __init__(self, reason: str, *, is_final: bool) -> None:
        self.reason, self.is_final = reason, is_final
        super().__init__(reason)


def _raised(one: Generation | UserError) -> Generation:
    if isinstance(one, UserError):
        raise one
    return one


def _gone(url: str, reason: str) -> UserError:
    return UserError("engine.endpoint.url", url, reason, "see to the server and run it again: finished parts are kept")
