"""The wheels listed in wheels.txt: downloaded once, verified against their hashes, and read as archives."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PINS_FILE = Path(__file__).with_name("wheels.txt")


def wheel_file(project: str, folder: Path) -> Path:
    """Return the wheel of `project` in `folder`, after downloading it if necessary.

    Raises:
        SystemExit: pip could not download it; the message includes pip's own.
    """
    version, digest = _pins()[project]
    file = folder / f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
    if file.is_file() and _sha256(file) == digest:
        return file
    file.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"  downloading {file.name}", flush=True)
    pin = folder / f"{project}.txt"
    pin.write_text(f"{project}=={version} --hash=sha256:{digest}\n", encoding="utf-8")
    # The wheels are pure Python and never installed, so the running Python version does not matter.
    flags = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.12", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *flags, "--requirement", str(pin), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pin.unlink()
    if done.returncode != 0 or not file.is_file():
        raise SystemExit(f"could not download {project}=={version}:\n{done.stderr[-2000:]}")
    return file


def read_arrow(wheel: zipfile.ZipFile, name: str) -> list[dict[str, Any]]:
    """Return the rows of an arrow stream inside `wheel`."""
    import pyarrow

    with wheel.open(name) as handle:
        rows: list[dict[str, Any]] = pyarrow.ipc.open_stream(handle.read()).read_all().to_pylist()
    return rows


def read_documents(wheel: zipfile.ZipFile, name: str) -> Iterator[dict[str, Any]]:
    """Yield each distinct `doc` of a gzipped JSONL file of scoring requests (one per answer choice), in order."""
    former = None
    seen = set()
    with wheel.open(name) as packed, gzip.open(packed, "rt", encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)["doc"]
            if document == former:
                continue
            former = document
            key = json.dumps(document, sort_keys=True)
            if key not in seen:
                seen.add(key)
                yield document


def _pins() -> dict[str, tuple[str, str]]:
    pins = re.findall(r"^([\w-]+)==(\S+) --hash=sha256:(\w+)$", PINS_FILE.read_text(encoding="utf-8"), re.MULTILINE)
    return {project: (version, digest) for project, version, digest in pins}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
