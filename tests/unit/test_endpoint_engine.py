"""The endpoint engine against a server that fails as servers do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ipt.config.synthesis import EndpointConfig, EngineConfig
from megatron_ipt.errors import UserError
from megatron_ipt.synthesis.engines.endpoint_engine import EndpointEngine
from megatron_ipt.synthesis.engines.engine import Generation, Request

sys.path.insert(0, str(Path(__file__).parents[1]))
from stub_endpoint import answer


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a stub started with the flags that the test asks for."""
    script = Path(__file__).parents[1] / "stub_endpoint.py"
    process = subprocess.Popen([sys.executable, str(script), *request.param], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    process.kill()
    process.wait()


def run(url: str, prompts: list[list[int]], **settings: object) -> list[Generation]:
    engine = EndpointEngine(EngineConfig(kind="endpoint", model="stub", endpoint=EndpointConfig(url=url, **settings)))
    try:
        for key, prompt in enumerate(prompts):
            engine.submit(Request(key, prompt, 50))
        found: list[Generation] = []
        while len(found) < len(prompts):
            found += engine.collect()
        return sorted(found, key=lambda generation: generation.key)
    finally:
        engine.close()


@pytest.mark.parametrize("stub", [["--error-rate", "0.3", "--delay-seconds", "0.005"]], indirect=True)
def test_answers_come_through_failures(stub: str) -> None:
    prompts = [[number, 2, 3] for number in range(100)]
    found = run(stub, prompts)
    assert [generation.text for generation in found] == [answer(prompt) for prompt in prompts]
    assert all(generation.failure is None and generation.tokens > 0 for generation in found)


@pytest.mark.parametrize("stub", [["--error-rate", "0", "--delay-seconds", "0"]], indirect=True)
def test_no_more_requests_a_minute_than_allowed(stub: str) -> None:
    started_seconds = time.monotonic()
    run(stub, [[number] for number in range(11)], requests_per_minute=1200)
    assert time.monotonic() - started_seconds >= 0.5


def test_nobody_listening_ends_the_run() -> None:
    with pytest.raises(UserError, match="finished parts are kept"):
        run("http://127.0.0.1:9/v1", [[1]], max_retries=1)


@pytest.mark.parametrize("stub", [["--error-rate", "0", "--delay-seconds", "0", "--max-prompt", "3"]], indirect=True)
def test_refused_prompt_costs_only_itself(stub: str) -> None:
    found = run(stub, [[1], [1, 2, 3, 4], [1, 2]])
    assert [generation.failure for generation in found] == [None, "HTTP 400", None]
    assert [generation.text for generation in found] == [answer([1]), "", answer([1, 2])]
