"""The text side and every --help work without importing torch or megatron-core."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import megatron_ipt

ROOT = Path(__file__).parents[2]
TEXT_SIDE = (
    *("attempts", "chat", "config", "corpus", "errors", "lm", "mixing", "observability", "pairs", "reporting"),
    *("stages", "synthesis", "synthesizer", "system_errors", "tokenization"),
)
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))
REPORT_HEAVY = "import sys; print(sorted({'torch', 'megatron', 'transformers'} & set(sys.modules)))"


def run_python(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return result.stdout.strip().splitlines()[-1]


def test_text_side_imports_no_torch() -> None:
    modules = [
        module.name
        for module in pkgutil.walk_packages(megatron_ipt.__path__, "megatron_ipt.")
        if module.name.split(".")[1] in TEXT_SIDE
    ]
    assert len(modules) > 10
    assert run_python(f"import {', '.join(modules)}; import sys; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("tool", TOOLS)
def test_help_imports_no_torch(tool: str) -> None:
    program = (
        f"import runpy, sys; sys.argv = ['{tool}', '--help']\n"
        f"try:\n    runpy.run_path('tools/{tool}', run_name='__main__')\n"
        f"except SystemExit as end:\n    assert not end.code, end.code\n{REPORT_HEAVY}"
    )
    assert run_python(program) == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["build_chat_set.py", "output=o", "tokenizer=absent", "input=[absent]"],
        ["build_tuning_set.py", "output=o", "tokenizer=absent", "collections=[{name: n, input: [absent]}]"],
        ["convert_checkpoint.py", "mcore-to-hf", "--input=absent", "--output=o"],
        ["convert_checkpoint.py", "hf-to-mcore", "--input=absent", "--output=o"],
        ["evaluate_model.py", "model=/absent", "output=o"],
        ["evaluate_model.py", "model=./absent", "output=o"],
        ["preprocess_data.py", "--input=absent", "--output-prefix=o/p", "--tokenizer-model=absent"],
        ["pretrain_gpt.py", "run=r", "data.tokenizer=absent"],
        ["score_synthesizer.py", "output=o", "input=[absent]", "models={m: {engine: {model: absent}}}"],
        ["synthesize_instructions.py", "input=[absent]", "output=o", "engine.model=absent"],
        ["synthesize_instructions.py", "input=[setup.py]", "output=o", "engine.model=./absent"],
    ],
    ids=" ".join,
)
def test_wrong_path_is_reported_before_torch_is_imported(arguments: list[str]) -> None:
    program = (
        f"import runpy, sys; sys.argv = {arguments!r}\n"
        f"try:\n    runpy.run_path('tools/{arguments[0]}', run_name='__main__')\n"
        f"except SystemExit as end:\n    assert end.code == 2, end.code\n{REPORT_HEAVY}"
    )
    assert run_python(program) == "[]"
