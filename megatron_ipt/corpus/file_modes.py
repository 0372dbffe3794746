"""Permissions of files that libraries write for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path


def apply_umask(file: Path) -> None:
    """Give `file` the permissions that the user's umask gives to new files; safetensors 0.8 writes mode 0600."""
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)
