"""A server that speaks the completions protocol, answers by rule, and fails as servers do.

What it answers follows from the prompt alone; delays and passing failures are random.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

MALFORMED = (
    "<QUE> No answer here </END>",
    "no tags at all",
    "<QUE> Two? <ANS> one <ANS> two </END>",
    "<QUE> Unfinished? <ANS> and the",
)


def digest(prompt: list[int]) -> int:
    """A number that follows from the prompt."""
    return int.from_bytes(hashlib.blake2b(str(prompt).encode(), digest_size=8).digest(), "big")


def answer(prompt: list[int]) -> str:
    """One to three pairs; one prompt in a hundred gets malformed output."""
    number = digest(prompt)
    if number % 100 == 0:
        return MALFORMED[number // 100 % len(MALFORMED)]
    pairs = (f"<QUE> What is {number % 997 + k}? <ANS> It is {number % 89 - k}. </END>" for k in range(number % 3 + 1))
    return "\n\n".join(pairs)


def completion(text: object, tokens: int = 1, finish_reason: str | None = "stop") -> dict[str, object]:
    """A whole answer in the protocol's form."""
    choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None}
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 0}
    return {"id": "x", "object": "text_completion", "created": 0, "model": "stub", "choices": [choice], "usage": usage}


def refuse(status: int, message: str, retry_after: str | None = None) -> web.Response:
    """An error in the protocol's form."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


def cut_off() -> web.Response:
    """Half an answer from a server that takes it for a whole one."""
    return web.Response(text=json.dumps(completion("<QUE> Half"))[:90], content_type="application/json")


async def drop(request: web.Request) -> web.StreamResponse:
    """Half an answer from a server that dies over it."""
    response = web.StreamResponse(headers={"Content-Length": "10000"})
    await response.prepare(request)
    await response.write(b'{"id": "x", "choices": [{"te')
    assert request.transport is not None
    request.transport.abort()
    return response


FAULTS: dict[str, Callable[[], web.Response]] = {
    "400": lambda: refuse(400, "this model's window is shorter"),
    "401": lambda: refuse(401, "the key has expired"),
    "404": lambda: refuse(404, "the model `stub` does not exist"),
    "429": lambda: refuse(429, "slow down", retry_after="0.05"),
    "429 until tomorrow": lambda: refuse(429, "quota used up", retry_after="86400"),
    "503": lambda: refuse(503, "restarting", retry_after="0.05"),
    "cut-off": cut_off,
    "no object": lambda: web.json_response({"choices": ["hi"]}),
    "no choice": lambda: web.json_response({"choices": []}),
    "page": lambda: web.Response(text="<html>Please log in</html>", content_type="text/html"),
    "null": lambda: web.json_response(completion(None)),
    "number": lambda: web.json_response(completion(7)),
    "aborted": lambda: web.json_response(completion("<QUE> Half", finish_reason="abort")),
    "unfinished": lambda: web.json_response(completion("<QUE> Half", finish_reason=None)),
    "filtered": lambda: web.json_response(completion("", finish_reason="content_filter")),
    "surrogate": lambda: web.json_response(completion("<QUE> Half \ud83d of it? <ANS> Yes. </END>", tokens=9)),
}


class Stub:
    """Refuses long prompts, fails now and then, and holds each answer back for a while.

    `fault` is "dropped" or one of FAULTS. It takes the place of the answers to `faulty_percent` of the prompts, once
    `answers_before_fault` answers have been given.
    """

    def __init__(self, error_rate: float = 0.0, delay_seconds: float = 0.0, max_prompt: int = 4096) -> None:
        self._error_rate, self._delay_seconds, self._max_prompt = error_rate, delay_seconds, max_prompt
        self.fault: str | None = None
        self.answers_before_fault, self.faulty_percent = 0, 100
        self.answers = 0
        self.requests: list[list[int]] = []

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        prompt = (await request.json())["prompt"]
        self.requests.append(prompt)
        if len(prompt) > self._max_prompt:
            return refuse(400, "too long")
        if self._delay_seconds:
            await asyncio.sleep(random.expovariate(1 / self._delay_seconds))
        if random.random() < self._error_rate:
            return FAULTS[random.choice(("429", "503", "cut-off"))]()
        is_faulty = self.answers >= self.answers_before_fault and digest(prompt) % 100 < self.faulty_percent
        if self.fault is not None and is_faulty:
            return await drop(request) if self.fault == "dropped" else FAULTS[self.fault]()
        self.answers += 1
        text = answer(prompt)
        return web.json_response(completion(text, tokens=len(text.split())))


async def start(stub: Stub, port: int = 0) -> web.AppRunner:
    """Serve on loopback in this event loop."""
    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/completions", stub.complete)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def stop(runner: web.AppRunner) -> None:
    """End the server with all answers that it still holds back."""
    answers = asyncio.all_tasks() - {asyncio.current_task()}
    for task in answers:
        task.cancel()
    await asyncio.gather(*answers, return_exceptions=True)
    await runner.cleanup()


@contextmanager
def serving(stub: Stub) -> Iterator[str]:
    """The URL of the stub, which answers from a thread of this process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(stub), loop).result()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(stop(runner), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def serve(port: int, stub: Stub) -> None:
    """Serve on loopback until killed; the first line printed is the port."""
    print((await start(stub, port)).addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--error-rate", type=float, default=0.05)
    parser.add_argument("--delay-seconds", type=float, default=0.02)
    parser.add_argument("--max-prompt", type=int, default=4096)
    given = parser.parse_args()
    asyncio.run(serve(given.port, Stub(given.error_rate, given.delay_seconds, given.max_prompt)))
