"""An engine for servers with OpenAI's completions API that accept prompts as token ids, such as vLLM's."""

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
    RefusedPrompt,
    TransientFailure,
    explain_status,
    read_answer,
)
from megatron_ipt.lm.engine import STOP, Completion, Failure, Request
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer

_REFUSAL_WINDOW = 100  # responses
_MIN_ALARMING_SHARE = 0.5
_INITIAL_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.5, 8.0


class EndpointEngine:
    """Sends concurrent requests from an event loop in a separate thread.

    Transient failures (timeouts, lost connections, 408, 409, 425, 429, 5xx, truncated responses) are retried with
    exponential backoff, or after the time in `Retry-After`. If all retries of a prompt fail while other prompts are
    answered, the prompt stays unanswered, for the next run; if none is answered, the run ends. It also ends if the
    server rejects most of the latest prompts: then the cause is the server, not the prompts.
    """

    batch_invariant = True
    devices = 0

    def __init__(self, config: EngineConfig, tokenizer: PromptTokenizer | None = None) -> None:
        """Open the client, without a request; `tokenizer` is not used, since the server has its own."""
        from openai import AsyncOpenAI

        given = config.endpoint
        self.capacity = given.concurrency
        self._config, self._url = config, given.url
        self._seconds_per_request = 60.0 / given.requests_per_minute if given.requests_per_minute else 0.0
        self._next_start_seconds = 0.0
        self._answered = 0
        self._refusals: deque[bool] = deque(maxlen=_REFUSAL_WINDOW)
        self._done: queue.Queue[Future[Completion]] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncOpenAI(
            base_url=given.url,
            api_key=os.environ.get(given.api_key_variable, "none"),
            timeout=given.timeout_seconds,
            max_retries=0,  # our own retries also cover malformed responses, which the client (openai 3.57) accepts
        )

    def submit(self, request: Request) -> None:
        """Send a request, without waiting for the response."""
        asyncio.run_coroutine_threadsafe(self._generate(request), self._loop).add_done_callback(self._done.put)

    def collect(self) -> list[Completion]:
        """Wait for a response, and return all that have arrived; exceptions of the request tasks are raised here."""
        found = [self._done.get()]
        while not self._done.empty():
            found.append(self._done.get())
        return [future.result() for future in found]

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Return the mean log-likelihood per token of each answer, in nats; the server must support `echo`."""
        return asyncio.run_coroutine_threadsafe(self._score_all(prompts, answers), self._loop).result()

    def close(self) -> None:
        """Cancel the requests in flight and stop the loop."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def _generate(self, request: Request) -> Completion:
        answered_before = self._answered
        try:
            answer = await self._complete(request.prompt, request.max_new_tokens, stop=[STOP])
        except RefusedPrompt as refused:
            failure = Failure(refused.reason, str(refused), is_refusal=True)
            self._record_refusal(failure)
            return Completion(request.key, "", 0, failure)
        except TransientFailure as transient:
            failure = Failure(transient.reason, str(transient), is_refusal=False)
            if self._answered == answered_before:
                raise self._server_lost(failure) from transient
            return Completion(request.key, "", 0, failure)
        self._answered += 1
        self._refusals.append(False)
        return Completion(request.key, answer.text, answer.tokens)

    def _record_refusal(self, failure: Failure) -> None:
        self._refusals.append(True)
        max_refusals = max(self._config.endpoint.max_refused_share, _MIN_ALARMING_SHARE) * _REFUSAL_WINDOW
        if sum(self._refusals) > max_refusals:
            reason = f"the server rejected {sum(self._refusals)} of the last {_REFUSAL_WINDOW} prompts; {failure}"
            remedy = "check engine.model, engine.max_model_len and the server, then run the same command again: "
            remedy += "finished parts are kept, and rejected prompts are sent again"
            raise UserError("engine.endpoint.url", self._url, reason, remedy)

    def _server_lost(self, failure: Failure) -> TemporaryFailure:
        return TemporaryFailure(
            f"engine.endpoint.url = {self._url}: the server no longer responds ({failure})\n"
            "check the server, then run the same command again: finished parts are kept"
        )

    async def _score_all(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        limit = asyncio.Semaphore(self.capacity)
        return await asyncio.gather(*(self._score(*pair, limit) for pair in zip(prompts, answers, strict=True)))

    async def _score(self, prompt: Sequence[int], answer: Sequence[int], limit: asyncio.Semaphore) -> float:
        try:
            async with limit:
                echoed = await self._complete([*prompt, *answer], 1, echo=True, logprobs=0)
        except RefusedPrompt as refused:
            raise self._no_logprobs(f"the server rejected the request to score an answer: {refused}") from refused
        except TransientFailure as transient:
            raise self._server_lost(Failure(transient.reason, str(transient), is_refusal=False)) from transient
        own = [logprob for logprob in echoed.logprobs[len(prompt) : len(prompt) + len(answer)] if logprob is not None]
        if len(own) != len(answer):
            raise self._no_logprobs("the server does not return the log-likelihoods of prompts")
        return sum(own) / len(own)

    def _no_logprobs(self, reason: str) -> UserError:
        remedy = "turn this gate off, or use a server or another engine that returns them"
        return UserError("gates.min_answer_gain", self._url, reason, remedy)

    async def _complete(self, prompt: Sequence[int], max_tokens: int, **settings: Any) -> Answer:
        """Send a request, and retry it after transient failures.

        Raises:
            UserError: no request can succeed with these settings.
            RefusedPrompt: the server rejected this prompt.
            TransientFailure: the last retry failed.
        """
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        retrying = AsyncRetrying(
            retry=retry_if_exception(self._is_retryable),
            wait=_wait_seconds,
            stop=stop_after_attempt(self._config.endpoint.max_retries + 1),
            reraise=True,
        )
        return await retrying(self._send, prompt, max_tokens, **settings)

    async def _send(self, prompt: Sequence[int], max_tokens: int, **settings: Any) -> Answer:
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
            raise TransientFailure("no connection", str(error.__cause__ or error)) from error
        except TimeoutError as error:
            raise TransientFailure("no response", f"within {self._config.endpoint.timeout_seconds:g} s") from error
        return read_answer(response.content, max_tokens)

    def _is_retryable(self, error: BaseException) -> bool:
        """Return whether to retry; not if the server asks to wait for longer than the timeout of a request."""
        max_seconds = self._config.endpoint.timeout_seconds
        return isinstance(error, TransientFailure) and error.retry_after_seconds <= max_seconds

    async def _wait_for_turn(self) -> None:
        """Wait until the rate limit allows the next request."""
        start_seconds = max(time.monotonic(), self._next_start_seconds)
        self._next_start_seconds = start_seconds + self._seconds_per_request
        await asyncio.sleep(start_seconds - time.monotonic())


def _wait_seconds(state: Any) -> float:
    from tenacity import wait_exponential, wait_random

    backoff = wait_exponential(_INITIAL_BACKOFF_SECONDS, max=_MAX_BACKOFF_SECONDS)
    jitter = wait_random(0, _INITIAL_BACKOFF_SECONDS)  # so that concurrent requests are not all retried at once
    return state.outcome.exception().retry_after_seconds or (backoff + jitter)(state)
