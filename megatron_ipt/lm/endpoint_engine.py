"""Any server that speaks OpenAI's completions protocol and takes prompts as token ids, as vLLM's does."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.lm.completions import (
    Answer,
    PassingFailure,
    RefusedPrompt,
    explain_status,
    read_answer,
)
from megatron_ipt.lm.engine import STOP, Completion, Failure, Request
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer

_WATCHED_ANSWERS = 100
_LEAST_ALARMING_SHARE = 0.5
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 8.0


class EndpointEngine:
    """Requests in flight on one event loop, in a thread of its own.

    What fails in passing (time-outs, lost connections, 408, 409, 429, 5xx, answers that are no completions) is tried
    again, after longer and longer waits or as the server asks. A prompt for which no try succeeds while others are
    answered has yet to be answered; a server that no longer answers at all ends the run. So does one that refuses
    most of the latest prompts: then the fault is the server's, not the prompts'.
    """

    batch_invariant = True
    devices = 0

    def __init__(self, config: EngineConfig, tokenizer: PromptTokenizer | None = None) -> None:
        """Open the client; whether anybody listens is known with the first request.

        The server has a tokenizer of its own.
        """
        from openai import AsyncOpenAI

        given = config.endpoint
        self.capacity = given.concurrency
        self._config, self._url = config, given.url
        self._seconds_a_request = 60.0 / given.requests_per_minute if given.requests_per_minute else 0.0
        self._next_start_seconds = 0.0
        self._answered = 0
        self._refusals: deque[bool] = deque(maxlen=_WATCHED_ANSWERS)
        self._done: queue.Queue[Future[Completion]] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncOpenAI(
            base_url=given.url,
            api_key=os.environ.get(given.api_key_variable, "none"),
            timeout=given.timeout_seconds,
            max_retries=0,  # it would not try again where an answer is malformed
        )

    def submit(self, request: Request) -> None:
        """Send a request."""
        asyncio.run_coroutine_threadsafe(self._generate(request), self._loop).add_done_callback(self._done.put)

    def collect(self) -> list[Completion]:
        """Wait for an answer, and return all that have come; an exception in a request's task is raised here."""
        found = [self._done.get()]
        while not self._done.empty():
            found.append(self._done.get())
        return [future.result() for future in found]

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

    async def _generate(self, request: Request) -> Completion:
        answered_before = self._answered
        try:
            answer = await self._ask(request.prompt, request.max_new_tokens, stop=[STOP])
        except RefusedPrompt as refused:
            failure = Failure(refused.reason, str(refused), is_refusal=True)
            self._watch_refusals(failure)
            return Completion(request.key, "", 0, failure)
        except PassingFailure as passing:
            failure = Failure(passing.reason, str(passing), is_refusal=False)
            if self._answered == answered_before:
                raise self._gone(failure) from passing
            return Completion(request.key, "", 0, failure)
        self._answered += 1
        self._refusals.append(False)
        return Completion(request.key, answer.text, answer.tokens)

    def _watch_refusals(self, failure: Failure) -> None:
        self._refusals.append(True)
        most = max(self._config.endpoint.max_refused_share, _LEAST_ALARMING_SHARE) * _WATCHED_ANSWERS
        if sum(self._refusals) > most:
            reason = f"the server refused {sum(self._refusals)} of the last {_WATCHED_ANSWERS} prompts; {failure}"
            remedy = "check engine.model, engine.max_model_len and the server, then run the same command again: "
            remedy += "finished parts are kept, and refused prompts are sent again"
            raise UserError("engine.endpoint.url", self._url, reason, remedy)

    def _gone(self, failure: Failure) -> TemporaryFailure:
        return TemporaryFailure(
            f"engine.endpoint.url = {self._url}: the server no longer answers ({failure})\n"
            "check the server, then run the same command again: finished parts are kept"
        )

    async def _score_all(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        limit = asyncio.Semaphore(self.capacity)
        return await asyncio.gather(*(self._score(*one, limit) for one in zip(prompts, answers, strict=True)))

    async def _score(self, prompt: Sequence[int], answer: Sequence[int], limit: asyncio.Semaphore) -> float:
        try:
            async with limit:
                echoed = await self._ask([*prompt, *answer], 1, echo=True, logprobs=0)
        except RefusedPrompt as refused:
            raise self._no_logprobs(f"the server refuses to score an answer: {refused}") from refused
        except PassingFailure as passing:
            raise self._gone(Failure(passing.reason, str(passing), is_refusal=False)) from passing
        own = [one for one in echoed.logprobs[len(prompt) : len(prompt) + len(answer)] if one is not None]
        if len(own) != len(answer):
            raise self._no_logprobs("the server does not report the log-likelihoods of prompts")
        return sum(own) / len(own)

    def _no_logprobs(self, reason: str) -> UserError:
        remedy = "leave this gate off, or use a server or another engine that reports them"
        return UserError("gates.min_answer_gain", self._url, reason, remedy)

    async def _ask(self, prompt: Sequence[int], max_tokens: int, **settings: Any) -> Answer:
        """The answer of the first try that succeeds.

        Raises:
            UserError: no prompt could be answered with these settings.
            RefusedPrompt: this one cannot.
            PassingFailure: the last try's.
        """
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        retrying = AsyncRetrying(
            retry=retry_if_exception(self._is_worth_another_try),
            wait=_wait_seconds,
            stop=stop_after_attempt(self._config.endpoint.max_retries + 1),
            reraise=True,
        )
        return await retrying(self._try, prompt, max_tokens, **settings)

    async def _try(self, prompt: Sequence[int], max_tokens: int, **settings: Any) -> Answer:
        import openai

        await self._wait_for_turn()
        try:
            response = await asyncio.wait_for(
                self._client.completions.with_raw_response.create(
                    model=self._config.model, prompt=list(prompt), max_tokens=max_tokens, temperature=0.0, **settings
                ),
                self._config.endpoint.timeout_seconds,
            )
        except openai.APIStatusError as error:
            body = error.body
            message = body["message"] if isinstance(body, dict) and "message" in body else error.message
            raise explain_status(self._config, error.status_code, error.response.headers, str(message)) from error
        except openai.APIConnectionError as error:
            raise PassingFailure("no connection", str(error.__cause__ or error)) from error
        except TimeoutError as error:
            raise PassingFailure("no answer", f"within {self._config.endpoint.timeout_seconds:g} s") from error
        return read_answer(response.content, max_tokens)

    def _is_worth_another_try(self, error: BaseException) -> bool:
        """Not where the server asks to wait longer than an answer may take."""
        return isinstance(error, PassingFailure) and error.asked_seconds <= self._config.endpoint.timeout_seconds

    async def _wait_for_turn(self) -> None:
        start_seconds = max(time.monotonic(), self._next_start_seconds)
        self._next_start_seconds = start_seconds + self._seconds_a_request
        await asyncio.sleep(start_seconds - time.monotonic())


def _wait_seconds(state: Any) -> float:
    from tenacity import wait_exponential, wait_random

    backoff = wait_exponential(_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS) + wait_random(0, _FIRST_WAIT_SECONDS)
    return state.outcome.exception().asked_seconds or backoff(state)
