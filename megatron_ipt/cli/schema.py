"""Print the JSON Schema of a stage's settings, which editors use to complete and check its YAML files.

In editors with the YAML language server, begin the file with: # yaml-language-server: $schema=SCHEMA_FILE
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from megatron_ipt.cli.command import run_command
from megatron_ipt.stages import STAGES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `megatron-ipt schema` and return its exit code."""
    return run_command(_schema, arguments)


def _schema(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="megatron-ipt schema", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=[name for name, spec in STAGES.items() if spec.settings])
    parsed = parser.parse_intermixed_args(arguments)
    print(json.dumps(STAGES[parsed.stage].load_schema().model_json_schema(), indent=2))
