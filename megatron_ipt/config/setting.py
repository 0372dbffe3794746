"""A documented field of a configuration dataclass, and how its default is shown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import yaml


def setting(default: Any = dataclasses.MISSING, help: str = "", *, factory: Callable[[], Any] | None = None) -> Any:
    """A dataclass field whose `help` appears in `--help` and in the reference; without a default it is required."""
    metadata = {"help": help}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of a configuration: its help and its default."""

    help: str
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING

    @property
    def shown_default(self) -> str:
        """The default as YAML, so that `key=DEFAULT` on the command line changes nothing."""
        text: str = yaml.safe_dump(self.default, default_flow_style=True, width=math.inf)
        return text.removesuffix("...\n").strip()


@dataclasses.dataclass(frozen=True)
class Section:
    """Settings that share a prefix; `help` says what they are about."""

    help: str
    settings: dict[str, Setting]


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The value that a new instance gets for `field`; `dataclasses.MISSING` where it has to be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
