"""A server that speaks the completions protocol, answers by rule, and fails as servers do.

What it answers follows from the prompt alone; delays and failures are random.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random

from aiohttp import web

MALFORMED = (
    "<QUE> No answer here </END>",
    "no tags at all",
    "<QUE> Two? <ANS> one <ANS> two </END>",
    "<QUE> Unfinished? <ANS> and the",
)


def answer(prompt: list[int]) -> str:
    """One to three pairs; one prompt in a hundred gets malformed output."""
    digest = hashlib.blake2b(str(prompt).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    if number % 100 == 0:
        return MALFORMED[number // 100 % len(MALFORMED)]
    pairs = (f"<QUE> What is {number % 997 + k}? <ANS> It is {number % 89 - k}. </END>" for k in range(number % 3 + 1))
    return "\n\n".join(pairs)


class Stub:
    """Refuses long prompts, fails now and then, and holds each answer back for a while."""

    def __init__(self, error_rate: float, delay_seconds: float, max_prompt: int) -> None:
        self._error_rate, self._delay_seconds, self._max_prompt = error_rate, delay_seconds, max_prompt

    async def complete(self, request: web.Request) -> web.Response:
        """POST /v1/completions."""
        body = await request.json()
        if len(body["prompt"]) > self._max_prompt:
            return web.json_response({"error": {"message": "too long"}}, status=400)
        if self._delay_seconds:
            await asyncio.sleep(random.expovariate(1 / self._delay_seconds))
        if random.random() < self._error_rate:
            return random.choice((self._busy, self._broken, self._cut_off))()
        text = answer(body["prompt"])
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(text.split()), "total_tokens": 0}
        return web.json_response(
            {"id": "x", "object": "text_completion", "created": 0, "model": "stub", "choices": [choice], "usage": usage}
        )

    @staticmethod
    def _busy() -> web.Response:
        return web.json_response({"error": {"message": "busy"}}, status=429, headers={"Retry-After": "0.05"})

    @staticmethod
    def _broken() -> web.Response:
        return web.json_response({"error": {"message": "broken"}}, status=500, headers={"Retry-After": "0.05"})

    @staticmethod
    def _cut_off() -> web.Response:
        return web.Response(text='{"id": "x", "choices": [{"te', content_type="application/json")


async def serve(port: int, stub: Stub) -> None:
    """Serve on loopback until killed; the first line printed is the port."""
    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/completions", stub.complete)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--error-rate", type=float, default=0.05)
    parser.add_argument("--delay-seconds", type=float, default=0.02)
    parser.add_argument("--max-prompt", type=int, default=4096)
    given = parser.parse_args()
    asyncio.run(serve(given.port, Stub(given.error_rate, given.delay_seconds, given.max_prompt)))
