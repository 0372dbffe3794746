"""The synthesis with a failing server: only unanswered texts are pending and requested again."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_synthesis_pipeline import Characters

from megatron_ipt.config.synthesis import EndpointConfig, EngineConfig, RephraseConfig, SynthesizeConfig
from megatron_ipt.corpus.manifest import read_manifest
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.lm.loading import load_engine
from megatron_ipt.synthesis.pipeline import synthesize

sys.path.insert(0, str(Path(__file__).parents[1]))
from stub_endpoint import Stub, serving

TEXTS = 300
ANSWERS_BEFORE_FAULT = 150


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Stub, str]]:
    stub = Stub()
    with serving(stub) as url:
        yield stub, url


@pytest.fixture
def stub(server: tuple[Stub, str]) -> Stub:
    """The server without faults, and with empty counters."""
    stub = server[0]
    stub.fault, stub.answers_before_fault, stub.faulty_percent = None, 0, 100
    stub.answers, stub.requests = 0, []
    return stub


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("raw") / "raw.jsonl"
    rows = ({"id": f"t{number}", "text": f"word{number} and more"} for number in range(TEXTS))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def make(raw: Path, output: Path, url: str, *, rephrase: float = 0.0, seed: int = 1234, **endpoint: object) -> dict:
    given = {"url": url, "concurrency": 16, "max_retries": 1, "timeout_seconds": 20.0, **endpoint}
    config = SynthesizeConfig(
        input=[str(raw)],
        output=str(output),
        engine=EngineConfig(kind="endpoint", model="stub", endpoint=EndpointConfig(**given)),
        texts_per_chain=2,
        augmented_fraction=0.9,
        rephrase=RephraseConfig(fraction=rephrase),
        seed=seed,
    )
    counts = synthesize(config, load_engine, lambda _: Characters())
    assert isinstance(counts, dict)
    return counts


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.stem != "timing"}


@pytest.fixture(scope="module")
def undisturbed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    with serving(Stub()) as url:
        make(raw, output, url)
    return files_of(output)


FAULTS = [
    ("400", UserError, "rejected .* of the last 100 prompts; HTTP 400: this model's window is shorter"),
    ("401", UserError, r"(?s)engine\.endpoint\.api_key_variable.*HTTP 401: the key has expired"),
    ("404", UserError, r"(?s)engine\.endpoint\.url.*HTTP 404: the model `stub` does not exist.*engine\.model=stub"),
    ("429", TemporaryFailure, "HTTP 429: slow down"),
    ("429 until tomorrow", TemporaryFailure, "86400 s"),
    ("503", TemporaryFailure, "HTTP 503"),
    ("dropped", TemporaryFailure, "no connection"),
    ("cut-off", TemporaryFailure, "not a completion"),
    ("no object", TemporaryFailure, "not a completion"),
    ("no choice", TemporaryFailure, "not a completion"),
    ("page", TemporaryFailure, "Please log in"),
    ("null", TemporaryFailure, "not a completion"),
    ("number", TemporaryFailure, "not a completion"),
    ("aborted", TemporaryFailure, "not a completion"),
    ("unfinished", TemporaryFailure, "not a completion"),
]


@pytest.mark.slow
def test_run_with_every_fault_gives_the_bytes_of_an_undisturbed_run(
    raw: Path, server: tuple[Stub, str], stub: Stub, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for number, (fault, error, reason) in enumerate(FAULTS):
        stub.fault, stub.answers_before_fault = fault, stub.answers + (150 if number == 0 else 20)
        with pytest.raises(error, match=reason):
            make(raw, output, server[1])
        manifest = read_manifest(output)
        assert manifest is not None and manifest.status == "running", fault
    stub.fault, stub.requests = None, []
    make(raw, output, server[1])
    assert files_of(output) == undisturbed
    assert 0 < len(stub.requests) < TEXTS * 0.9 - 150 / 3


@pytest.mark.parametrize(("fault", "error"), [("404", UserError), ("no object", TemporaryFailure)])
def test_unreachable_server_leaves_nothing_behind(
    fault: str, error: type[Exception], raw: Path, server: tuple[Stub, str], stub: Stub, tmp_path: Path
) -> None:
    stub.fault = fault
    for seed in (1, 2):
        with pytest.raises(error, match=r"404|not a completion"):
            make(raw, tmp_path / "out", server[1], seed=seed)
        assert not (tmp_path / "out").exists()


def die_before_the_first_answer(config: SynthesizeConfig) -> None:
    synthesize(config, lambda *_: os._exit(9), lambda _: Characters())


def test_attempt_killed_before_its_first_answer_is_replaced(
    raw: Path, server: tuple[Stub, str], stub: Stub, tmp_path: Path
) -> None:
    config = SynthesizeConfig(input=[str(raw)], output=str(tmp_path / "out"), engine=EngineConfig(model="other"))
    process = multiprocessing.get_context("spawn").Process(target=die_before_the_first_answer, args=(config,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert (tmp_path / "out" / "manifest.json").exists()
    stub.fault, stub.answers_before_fault = "404", 150
    with pytest.raises(UserError, match="404"):
        make(raw, tmp_path / "out", server[1])
    with pytest.raises(UserError, match="it holds another run's result"):  # parts exist by now
        make(raw, tmp_path / "out", server[1], seed=2)


@pytest.mark.slow
def test_few_refused_texts_lose_only_their_own_pairs(
    raw: Path, server: tuple[Stub, str], stub: Stub, tmp_path: Path
) -> None:
    stub.fault, stub.faulty_percent = "filtered", 2
    counts = make(raw, tmp_path / "out", server[1], rephrase=1.0)
    assert 0 < counts["texts_refused"] < TEXTS * 0.05
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs-00000.jsonl").read_text().splitlines()]
    assert [row["refused"] for row in rows if "refused" in row] == ["content filter"] * counts["texts_refused"]
    drops = [counts[kind]["refused by the engine: content filter"] for kind in ("drops", "rephrasing_drops")]
    assert min(drops) > 0 and sum(drops) == counts["texts_refused"]


@pytest.mark.slow
def test_run_with_too_many_refused_texts_is_incomplete_and_retries_them(
    raw: Path, server: tuple[Stub, str], stub: Stub, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    stub.fault, stub.faulty_percent = "400", 10
    for output in (tmp_path / "accepted", tmp_path / "fixed"):
        with pytest.raises(
            UserError, match=r"max_refused_share = 0\.05\n.*rejected \d+ of \d+ texts; the first is t\d+"
        ):
            make(raw, output, server[1])
    counts = make(raw, tmp_path / "accepted", server[1], max_refused_share=0.5)
    assert TEXTS * 0.05 < counts["texts_refused"] < TEXTS * 0.2
    stub.fault, stub.requests = None, []
    make(raw, tmp_path / "fixed", server[1])
    assert files_of(tmp_path / "fixed") == undisturbed
    assert 0 < len(stub.requests) < 2 * TEXTS * 0.2  # both texts of a chain


@pytest.mark.slow
def test_texts_without_an_answer_are_pending_while_others_are_answered(
    raw: Path, server: tuple[Stub, str], stub: Stub, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    for fault in ("503", "429", "null"):
        stub.fault, stub.faulty_percent = fault, 3
        with pytest.raises(
            TemporaryFailure, match=r"^\d of \d+ texts have no answer yet; the first is t\d+ |no longer"
        ):
            make(raw, tmp_path / "out", server[1])
    stub.fault, stub.requests = None, []
    make(raw, tmp_path / "out", server[1])
    assert files_of(tmp_path / "out") == undisturbed
    assert 0 < len(stub.requests) < 2 * TEXTS * 0.06
