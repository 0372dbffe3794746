"""Tokenize JSONL or parquet files into Megatron's indexed datasets: PREFIX_KEY_document.bin and .idx.

Accepts the flags of Megatron-LM's tools/preprocess_data.py, a YAML file with the same names, or both; flags override
the file.
"""

from __future__ import annotations

import argparse
import json
import typing
from collections.abc import Sequence
from typing import Any

from megatron_ipt.cli.command import run_attempt, run_command
from megatron_ipt.config.loading import load_config
from megatron_ipt.config.settings import Setting, known_keys
from megatron_ipt.config.stages import PreprocessConfig

_JSON_FLAG = "--json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt preprocess` (tools/preprocess_data.py) and return its exit code."""
    return run_command(_command, arguments)


def _command(arguments: Sequence[str]) -> None:
    words = [word for word in arguments if word != _JSON_FLAG]
    config = parse_flags(words)
    from megatron_ipt.tokenization.outputs import dataset_prefix
    from megatron_ipt.tokenization.preprocessing import preprocess

    datasets = run_attempt("preprocess", preprocess, config)
    if len(words) < len(arguments):
        prefixes = {key: str(dataset_prefix(config, key)) for key in datasets}
        print(json.dumps({"stage": "preprocess", "prefixes": prefixes, "counts": datasets}))
        return
    for key, counts in datasets.items():
        empty = f", {counts['empty_documents']:,} of them empty" if counts["empty_documents"] else ""
        print(
            f"{dataset_prefix(config, key)}.bin/.idx: {counts['documents']:,} documents{empty}, "
            f"{counts['tokens']:,} tokens"
        )
    if skipped := max(counts["skipped_rows"] for counts in datasets.values()):
        print(f"{skipped:,} rows could not be read and were skipped")


def parse_flags(arguments: Sequence[str]) -> PreprocessConfig:
    """Parse `--config FILE`, `name=value` overrides and flags; flags win over overrides, which win over the file.

    Raises:
        UserError: listing everything that is wrong.
    """
    parsed = vars(_parser().parse_intermixed_args(arguments))
    file, overrides = parsed.pop("config"), parsed.pop("overrides")
    flags = [f"{name}={json.dumps(value)}" for name, value in parsed.items()]
    return load_config(PreprocessConfig, file, [*overrides, *flags])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="preprocess_data.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with the names below, written with _ for -")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="override one setting of the file")
    parser.add_argument(_JSON_FLAG, action="store_true", default=argparse.SUPPRESS, help="print the outcome as JSON")
    for name, setting in known_keys(PreprocessConfig).items():
        flag = f"--{name.replace('_', '-')}"
        text = f"{setting.help}{_default(setting)}".replace("%", "%%")
        options = _options_for(PreprocessConfig.model_fields[name].annotation)
        # SUPPRESS keeps flags that are not given out of the namespace, so that they do not override the file
        parser.add_argument(flag, help=text, default=argparse.SUPPRESS, **options)
    return parser


def _options_for(kind: Any) -> dict[str, Any]:
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is list:
        return {"nargs": "+", "metavar": "VALUE"}
    return {"metavar": "N" if kind is int else "VALUE"}


def _default(setting: Setting) -> str:
    if setting.is_required:
        return " (required)"
    default = setting.default
    return f" (default: {' '.join(default) if isinstance(default, list) else setting.shown_default})"
