"""Print the JSON Schema of the settings of a stage, with which editors complete and check its YAML files.

For editors with the YAML language server, begin a file with: # yaml-language-server: $schema=SCHEMA_FILE
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from megatron_ipt.cli.command import run_command
from megatron_ipt.stages import STAGES


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `megatron-ipt schema`."""
    return run_command(_schema, arguments)


def _schema(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="megatron-ipt schema", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=[name for name, spec in STAGES.items() if spec.settings])
    parsed = parser.parse_args(arguments)
    print(json.dumps(STAGES[parsed.stage].load_schema().model_json_schema(), indent=2))
