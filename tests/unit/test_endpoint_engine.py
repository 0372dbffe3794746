"""The endpoint engine against a server that fails as servers do."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ipt.config.synthesis import EndpointConfig, EngineConfig
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.lm.completions import Answer, TransientFailure, explain_status, read_answer
from megatron_ipt.lm.endpoint_engine import EndpointEngine
from megatron_ipt.lm.engine import Completion, Failure, Request
from megatron_ipt.lm.loading import find_engine_problems

sys.path.insert(0, str(Path(__file__).parents[1]))
from stub_endpoint import Stub, answer, serving


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a stub of the settings that the test asks for."""
    with serving(request.param) as url:
        yield url


def run(url: str, prompts: list[list[int]], **settings: object) -> list[Completion]:
    engine = EndpointEngine(EngineConfig(kind="endpoint", model="stub", endpoint=EndpointConfig(url=url, **settings)))
    try:
        for key, prompt in enumerate(prompts):
            engine.submit(Request(key, prompt, 50))
        found: list[Completion] = []
        while len(found) < len(prompts):
            found += engine.collect()
        return sorted(found, key=lambda completion: completion.key)
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("stub", [Stub(error_rate=0.3, delay_seconds=0.005)], indirect=True)
def test_answers_come_through_failures(stub: str) -> None:
    prompts = [[number, 2, 3] for number in range(100)]
    found = run(stub, prompts)
    assert [completion.text for completion in found] == [answer(prompt) for prompt in prompts]
    assert all(completion.failure is None and completion.tokens > 0 for completion in found)


@pytest.mark.parametrize("stub", [Stub()], indirect=True)
def test_no_more_requests_a_minute_than_allowed(stub: str) -> None:
    started_seconds = time.monotonic()
    run(stub, [[number] for number in range(11)], requests_per_minute=1200)
    assert time.monotonic() - started_seconds >= 0.5


def test_nobody_listening_ends_the_run() -> None:
    with pytest.raises(TemporaryFailure, match="finished parts are kept"):
        run("http://127.0.0.1:9/v1", [[1]], max_retries=1)


def test_answer_that_takes_too_long_is_none() -> None:
    with serving(Stub(delay_seconds=1e6)) as url, pytest.raises(TemporaryFailure, match=r"no response: within 0\.2 s"):
        run(url, [[1]], timeout_seconds=0.2, max_retries=0)


def test_the_server_says_how_long_to_wait() -> None:
    stub = Stub()
    stub.fault = "429"
    with serving(stub) as url, pytest.raises(TemporaryFailure):
        started_seconds = time.monotonic()
        run(url, [[1]], max_retries=5)
    assert 0.25 <= time.monotonic() - started_seconds < 8  # five times 0.05 s, not 0.5 s, 1 s, 2 s, ...


def test_lone_surrogate_becomes_a_replacement_character() -> None:
    stub = Stub()
    stub.fault = "surrogate"
    with serving(stub) as url:
        [found] = run(url, [[1]])
    assert found.text == "<QUE> Half \ufffd of it? <ANS> Yes. </END>"


def test_unexpected_exception_in_the_task_of_a_request_is_raised() -> None:
    """A prompt of None cannot be sent; the run must not wait for its answer."""
    with serving(Stub()) as url, pytest.raises(TypeError):
        run(url, [[1], None])


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"text": "a", "finish_reason": "stop"}, Answer("a", 0)),
        ({"text": "", "finish_reason": "length"}, Answer("", 50)),
        (
            {"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [None, -1]}},
            Answer("a", 0, (None, -1)),
        ),
        ({"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": "no"}}, None),
        ({"text": "a", "finish_reason": "stop", "logprobs": "no"}, None),
        ({"text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": ["-1"]}}, None),
        ({"text": ["a"], "finish_reason": "stop"}, None),
        ({"text": "a"}, None),
        ({"finish_reason": "stop"}, None),
        (None, None),
        ([], None),
    ],
)
def test_only_whole_answers_of_the_protocol_are_read(body: object, answer: Answer | None) -> None:
    whole = json.dumps({"choices": [body]}).encode()
    if answer is not None:
        assert read_answer(whole, 50) == answer
    for broken in [whole[:-1], b"[" * 100_000, b"\xff\xfe", b"3", *([whole] if answer is None else [])]:
        with pytest.raises(TransientFailure):
            read_answer(broken, 50)


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("7", 7, 7), ("-1", 0, 0), ("soon", 0, 0), ("inf", 0, 0), ("Wed, 25 Nov 2020 12:00:00 +0000", 0, 0)],
)
def test_retry_after_holds_seconds_or_a_date(asked: str, least: float, most: float) -> None:
    failure = explain_status(EngineConfig(kind="endpoint", model="m"), 503, {"retry-after": asked}, "")
    assert isinstance(failure, TransientFailure)
    assert least <= failure.retry_after_seconds <= most


def test_a_server_without_log_likelihoods_is_named() -> None:
    with serving(Stub()) as url:
        config = EngineConfig(kind="endpoint", model="stub", endpoint=EndpointConfig(url=url))
        engine = EndpointEngine(config)
        try:
            with pytest.raises(UserError, match="does not return the log-likelihoods"):
                engine.score([[1, 2]], [[3]])
        finally:
            engine.close()


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "http://", "http://[::1", "ftp://host/v1"])
def test_what_is_no_url_is_refused_before_anything_is_sent(url: str) -> None:
    config = EngineConfig(kind="endpoint", model="stub", endpoint=EndpointConfig(url=url))
    assert [problem.field for problem in find_engine_problems(config)] == ["engine.endpoint.url"]


@pytest.mark.parametrize("stub", [Stub(max_prompt=3)], indirect=True)
def test_refused_prompt_costs_only_itself(stub: str) -> None:
    found = run(stub, [[1], [1, 2, 3, 4], [1, 2]])
    assert [completion.failure for completion in found] == [None, Failure("HTTP 400", "too long", True), None]
    assert [completion.text for completion in found] == [answer([1]), "", answer([1, 2])]
