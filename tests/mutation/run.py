"""Mutation testing of the packages that a training run rests on: how many mutants do the tests detect?

    .venv/bin/python tests/mutation/run.py --results mutation

Mutants are drawn by seed. Each runs against the test files that execute its line, in children of a process that has
imported torch and megatron-core: first those that import its module, then those that have killed the most mutants in
the time they take. A mutant is killed by the first failing test, or when its tests take five times as long as without
it. One that outlives all its files, or the time limit of a mutant, has survived: the limit counts against the tests.
Every outcome is appended to RESULTS/outcomes.jsonl, and the same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import coverage
import mutants
import warm
from pytest import ExitCode

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("megatron_ipt/training", "megatron_ipt/checkpointing", "megatron_ipt/data", "megatron_ipt/pairs")
TESTS = ("tests/unit", "tests/distributed")
# A test file has timed out after START_SECONDS and this many times its time without a mutation.
TIMEOUT_FACTOR = 5.0
START_SECONDS = 30.0


@dataclass(frozen=True)
class Covered:
    """The lines that a test file executes, by source file, and the time it takes, in seconds."""

    file: str
    seconds: float
    lines: dict[str, list[int]]


@dataclass(frozen=True)
class Trial:
    """A mutant with its time limit.

    `covering` holds the test files that execute its line, with their usual seconds.
    """

    mutant: mutants.Mutant
    covering: dict[str, float]
    limit_seconds: float


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder for what each test covers and the outcomes")
    parser.add_argument("--mutants", type=int, default=300, help="number of mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=14491, help="seed of the draw (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="mutants at a time (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for a mutant (default: %(default)s)")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    results = options.results.resolve()

    files = sorted(str(file.relative_to(ROOT)) for folder in TESTS for file in (ROOT / folder).glob("test_*.py"))
    measured = {covered.file for covered in _covered(results)}
    _in_workers(results, options.processes, _cover, [file for file in files if file not in measured])

    drawn = mutants.draw(ROOT, FOLDERS, options.mutants, options.seed)
    covered = [*_covered(results)]
    decided = {_key(outcome["mutant"]) for outcome in _rows(results / "outcomes.jsonl")}
    trials = [
        Trial(mutant, _covering(mutant, covered), options.limit)
        for mutant in drawn
        if _key(asdict(mutant)) not in decided
    ]
    _in_workers(results, options.processes, _judge, trials)
    _summarize(results, {_key(asdict(mutant)) for mutant in drawn})


def _covering(mutant: mutants.Mutant, files: Sequence[Covered]) -> dict[str, float]:
    return {covered.file: covered.seconds for covered in files if mutant.line in covered.lines.get(mutant.file, [])}


def _by_kill_rate(trial: Trial, outcomes: Iterable[dict[str, Any]]) -> list[str]:
    """Order the files that cover a mutant: first those that import its module, then by kills per second so far."""
    tries, kills = Counter[str](), Counter[str]()
    for outcome in outcomes:
        tries.update(outcome["tried"])
        kills[outcome["killer"]] += 1
    module = trial.mutant.file.removesuffix(".py").replace("/", ".")
    package, _, name = module.rpartition(".")
    imported = re.compile(rf"\b{re.escape(module)}\b|\bfrom {re.escape(package)} import .*\b{name}\b")

    def kill_rate(file: str) -> tuple[bool, float]:
        imports = imported.search((ROOT / file).read_text(encoding="utf-8")) is not None
        return imports, (kills[file] + 1) / (tries[file] + 2) / trial.covering[file]

    return sorted(trial.covering, key=kill_rate, reverse=True)


def _in_workers(results: Path, processes: int, work: Callable[[Path, Path, Any], None], items: Sequence[Any]) -> None:
    """Call `work(tree, results, item)` for every item, in processes that each have a copy of the tree."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for item in items:
        queue.put(item)
    for _ in range(processes):
        queue.put(None)
    workers = [context.Process(target=_work, args=(results, number, work, queue)) for number in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode != 0:
            sys.exit(f"a worker ended with exit code {worker.exitcode}; run the same command again to resume")


def _work(results: Path, number: int, work: Callable[[Path, Path, Any], None], queue: Queue[Any]) -> None:
    tree = results / f"tree{number}"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    (tree / ".cache").symlink_to(ROOT / ".cache")
    (tree / "tmp").mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)  # tests of the documentation ask git for files
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    warm.import_large_libraries()
    while (item := queue.get()) is not None:
        work(tree, results, item)
        shutil.rmtree(tree / "tmp")
        (tree / "tmp").mkdir()


def _cover(tree: Path, results: Path, file: str) -> None:
    folder = results / "coverage" / Path(file).stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    code = warm.run_tests(tree, [file], seconds=1200.0, coverage_file=folder / "data")
    seconds = time.monotonic() - began
    if code == ExitCode.TESTS_FAILED:  # perhaps of coverage's own files, such as one beyond a limit of file sizes
        code = warm.run_tests(tree, [file], seconds=1200.0)
    if code == ExitCode.NO_TESTS_COLLECTED:
        return
    if code != ExitCode.OK:
        print(f"{file} is left out: it does not pass without a mutation (pytest ended with {code})", flush=True)
        return
    lines = {name: sorted(executed) for name, executed in _read_coverage(tree, folder).items()}
    print(f"{file}: {seconds:.0f} s, {sum(map(len, lines.values()))} lines", flush=True)
    _append(results / "coverage.jsonl", asdict(Covered(file, seconds, lines)))


def _read_coverage(tree: Path, folder: Path) -> dict[str, set[int]]:
    """Lines by source file, of all processes but those whose coverage could not be written."""
    lines: dict[str, set[int]] = defaultdict(set)
    for file in filter(_is_whole, folder.glob("data*")):
        data = coverage.CoverageData(str(file))
        data.read()
        for measured in data.measured_files():
            name = measured.removeprefix(f"{tree}/")
            if name.startswith(FOLDERS):
                lines[name].update(data.lines(measured) or [])
    return lines


def _is_whole(database: Path) -> bool:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            return bool(connection.execute("pragma quick_check").fetchall() == [("ok",)])
        except sqlite3.DatabaseError:
            return False


def _judge(tree: Path, results: Path, trial: Trial) -> None:
    mutant = trial.mutant
    source = (tree / mutant.file).read_bytes()
    began = time.monotonic()
    killer, timed_out, tried = None, False, []
    (tree / mutant.file).write_bytes(mutant.apply(source))
    try:
        for file in _by_kill_rate(trial, _rows(results / "outcomes.jsonl")):
            if time.monotonic() - began > trial.limit_seconds:
                break
            tried.append(file)
            code = warm.run_tests(tree, [file], START_SECONDS + TIMEOUT_FACTOR * trial.covering[file])
            if code != ExitCode.OK:
                killer, timed_out = file, code == warm.TIMED_OUT
                break
    finally:
        (tree / mutant.file).write_bytes(source)
    seconds = time.monotonic() - began
    print(f"{mutant.file}:{mutant.line} {mutant.kind}: {killer or 'SURVIVED'} ({seconds:.0f} s)", flush=True)
    outcome = {
        "killer": killer,
        "timed_out": timed_out,
        "tried": tried,
        "covering": len(trial.covering),
        "seconds": round(seconds, 1),
    }
    _append(results / "outcomes.jsonl", {"mutant": asdict(mutant), **outcome})


def _summarize(results: Path, drawn: set[tuple[object, ...]]) -> None:
    outcomes = [outcome for outcome in _rows(results / "outcomes.jsonl") if _key(outcome["mutant"]) in drawn]
    survivors = [outcome for outcome in outcomes if outcome["killer"] is None]
    for outcome in sorted(survivors, key=lambda outcome: (outcome["mutant"]["file"], outcome["mutant"]["line"])):
        mutant = outcome["mutant"]
        cells = [f"{mutant['file']}:{mutant['line']}", mutant["before"], mutant["text"]]
        shown = [f"`{' '.join(cell.split())[:100]}`" for cell in cells]
        print("|", " | ".join([*shown, mutant["kind"]]), "|")
    killed = len(outcomes) - len(survivors)
    print(f"{killed} of {len(outcomes)} mutants killed: {killed / len(outcomes):.1%}")


def _covered(results: Path) -> list[Covered]:
    return [Covered(**row) for row in _rows(results / "coverage.jsonl")]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def _key(mutant: dict[str, Any]) -> tuple[object, ...]:
    return mutant["file"], mutant["start"], mutant["end"], mutant["text"]


if __name__ == "__main__":
    main()
