"""Compare synthesis with vLLM in process with a bare vLLM loop over the same prompts.

    python benchmarks/synthesis.py --input FILE.jsonl --model SYNTHESIZER

Three commands run alternately, each in a separate process. The measured time excludes loading and closing the model and
its tokenizer:

bare      vllm.LLM.generate with all prompts, built beforehand: nothing is read, parsed or written
one-shot  the whole stage, M = 1: read, prompt, parse, write parts, render, report
two-shot  the same, M = 2: the prompt of every second text contains the first text with its pairs
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from megatron_ipt.config.synthesis import EngineConfig, SynthesizeConfig, VllmConfig
from megatron_ipt.lm.engine import STOP
from megatron_ipt.lm.loading import load_engine, load_tokenizer_of
from megatron_ipt.pairs.prompts import PromptBuilder, read_examples
from megatron_ipt.synthesis.pipeline import synthesize

BARE, ONE_SHOT, TWO_SHOT = NAMES = ("bare", "one-shot", "two-shot")


def main() -> None:
    """Print a Markdown table and the two ratios."""
    options = parse_options()
    if options.only:
        name, result = options.only
        Path(result).write_text(json.dumps(run_bare(options) if name == BARE else run_ours(options, name)))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"  # vLLM writes to stdout too
        for _, name in itertools.product(range(options.repeats), NAMES):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name, str(result)], check=True)
            runs[name].append(json.loads(result.read_text()))
            print(name, runs[name][-1], file=sys.stderr)
    print("| command | texts | seconds | texts/s | generated tokens/s |\n|---|---|---|---|---|")
    seconds = {name: statistics.median(run["seconds"] / run["texts"] for run in runs[name]) for name in NAMES}
    for name in NAMES:
        texts, tokens = runs[name][0]["texts"], runs[name][0]["tokens"]
        rate = tokens / texts / seconds[name]
        print(f"| {name} | {texts} | {seconds[name] * texts:.1f} | {1 / seconds[name]:.2f} | {rate:.0f} |")
    print(f"\none-shot: {seconds[BARE] / seconds[ONE_SHOT]:.3f} times the bare loop's texts/s", end="; ")
    print(f"two-shot: {seconds[TWO_SHOT] / seconds[ONE_SHOT]:.3f} of one-shot's time per text")


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="JSONL with a field text")
    parser.add_argument("--model", required=True, help="Hugging Face folder of a synthesizer")
    parser.add_argument("--examples", help="JSONL of texts with pairs, for a model not tuned as a synthesizer")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each command")
    parser.add_argument("--max-new-tokens", type=int, default=400)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument(
        "--only", nargs=2, metavar=("COMMAND", "RESULT"), help="run one command once and write its results as JSON"
    )
    return parser.parse_args()


def engine_config(options: argparse.Namespace) -> EngineConfig:
    """Return the engine settings, the same for all commands."""
    return EngineConfig(
        kind="vllm",
        model=options.model,
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        max_new_tokens=options.max_new_tokens,
        vllm=VllmConfig(enforce_eager=options.enforce_eager),
    )


def run_bare(options: argparse.Namespace) -> dict[str, float]:
    """Measure one call of vLLM with all prompts."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import vllm

    config = engine_config(options)
    tokenizer = load_tokenizer_of(config)
    examples = read_examples(Path(options.examples) if options.examples else None)
    builder = PromptBuilder(tokenizer, examples, config.max_model_len, config.max_new_tokens)
    with options.input.open(encoding="utf-8") as rows:
        texts = [json.loads(row)["text"] for row in itertools.islice(rows, options.texts)]
    prompts = [{"prompt_token_ids": builder.build([], text).ids} for text in texts]
    model = vllm.LLM(
        config.model,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        generation_config="vllm",
        **config.vllm.model_dump(),
    )
    sampling = vllm.SamplingParams(
        temperature=0.0, max_tokens=config.max_new_tokens, stop=[STOP], stop_token_ids=tokenizer.eos_ids
    )
    began = time.monotonic()
    outputs = model.generate(prompts, sampling, use_tqdm=False)
    seconds = time.monotonic() - began
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"seconds": seconds, "texts": len(texts), "tokens": tokens}


def run_ours(options: argparse.Namespace, name: str) -> dict[str, float]:
    """Measure the whole stage, with an engine that is already loaded and stays open."""
    config = engine_config(options)
    tokenizer = load_tokenizer_of(config)
    engine = load_engine(config, tokenizer)
    close, engine.close = engine.close, lambda: None
    with tempfile.TemporaryDirectory() as scratch:
        stage = SynthesizeConfig(
            input=[str(options.input)],
            output=str(Path(scratch) / "corpus"),
            engine=config,
            examples=options.examples,
            texts_per_chain=2 if name == TWO_SHOT else 1,
            max_texts=options.texts,
        )
        began = time.monotonic()
        counts = synthesize(stage, lambda _config, _tokenizer: engine, lambda _folder: tokenizer)
        seconds = time.monotonic() - began
    close()
    assert isinstance(counts, dict)
    return {"seconds": seconds, "texts": counts["texts"], "tokens": counts["generated_tokens"]}


if __name__ == "__main__":
    main()
