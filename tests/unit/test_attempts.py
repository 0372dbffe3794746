"""Whether a job is requeued after a failed attempt: the judgement, and slurm/common.sh, which acts on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from megatron_ipt.attempts import FOLDER_VARIABLE, find_failed_nodes, judge, record_exit, record_node, record_start
from megatron_ipt.checkpointing.layout import CONTENTS_NAME, iteration_folder
from megatron_ipt.stages import STAGES
from megatron_ipt.synthesis.generation.parts import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "attempt"
    folder.mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


def seal_checkpoint(run: Path, iteration: int) -> None:
    folder = iteration_folder(run, iteration)
    folder.mkdir(parents=True)
    (folder / CONTENTS_NAME).write_text("{}")


@pytest.mark.parametrize("code", [1, os.EX_TEMPFAIL, 128 + 6, 128 + 9, 128 + 10, 128 + 15])
def test_failure_is_worth_another_attempt_only_after_a_new_checkpoint(code: int, attempt: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    seal_checkpoint(run, 100)
    record_start(run, STAGES["pretrain"].parts)
    (iteration_folder(run, 150)).mkdir()  # not sealed
    assert judge(attempt, code) == (
        code,
        f"ended with exit code {code} and has finished nothing new in {run} since it started: not requeued. "
        "Fix what it reports above, then submit it again: it resumes",
    )
    seal_checkpoint(run, 200)
    verdict, line = judge(attempt, code)
    assert verdict == 0
    assert "checkpoints/iter_0000200/checkpoint.json" in line


def test_progress_of_a_synthesis_is_its_parts(attempt: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out")
    workspace.write_part((0, 0), [])
    record_start(tmp_path / "out", STAGES["synthesize"].parts)
    (workspace.tallies).mkdir()
    (workspace.tallies / "00000.json").write_text("{}")  # what a worker shows is no result
    assert judge(attempt, os.EX_TEMPFAIL)[0] == os.EX_TEMPFAIL
    workspace.write_part((0, 1), [])
    assert judge(attempt, os.EX_TEMPFAIL)[0] == 0
    record_start(tmp_path / "out", STAGES["synthesize"].parts)
    workspace.write_state(0, {})
    assert judge(attempt, os.EX_TEMPFAIL)[0] == 0


def test_stages_without_parts_are_not_attempted_again(attempt: Path, tmp_path: Path) -> None:
    record_start(tmp_path, STAGES["convert"].parts)
    (tmp_path / "model.safetensors").touch()
    assert judge(attempt, os.EX_TEMPFAIL)[0] == os.EX_TEMPFAIL


def note_ranks(codes: Sequence[int | None], monkeypatch: pytest.MonkeyPatch, *, ranks_per_node: int = 2) -> None:
    """Each rank starts on its node and ends with its code; one that is killed notes none."""
    for rank, code in enumerate(codes):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("SLURMD_NODENAME", f"n{rank // ranks_per_node}")
        record_node()
        if code is not None:
            record_exit(code)


def judge_after_progress(code: int, attempt: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """The verdict on a training attempt that sealed a checkpoint, then lost rank 1 to an exit with `code`."""
    record_start(run, STAGES["pretrain"].parts)
    seal_checkpoint(run, 5)
    note_ranks((os.EX_TEMPFAIL, code, os.EX_TEMPFAIL), monkeypatch)
    return judge(attempt, os.EX_TEMPFAIL)


def test_mistake_of_one_rank_counts_more_than_the_contact_that_others_lost(
    attempt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, line = judge_after_progress(2, attempt, tmp_path, monkeypatch)
    assert verdict == 2
    assert line.startswith("rank 1 ended")


def test_crash_of_one_rank_is_worth_another_attempt(
    attempt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge_after_progress(1, attempt, tmp_path, monkeypatch)[0] == 0


LOST = os.EX_TEMPFAIL


@pytest.mark.parametrize(
    ("codes", "failed"),
    [
        ((LOST, LOST, LOST, 1, LOST, LOST), {"n1"}),
        ((LOST, LOST, None, LOST, LOST, LOST), {"n1"}),  # killed
        ((1, LOST), {"n0"}),
        ((LOST,) * 6, set()),  # a hang: every rank ends itself
        ((1,) * 6, set()),
        ((None, None, None, 0), set()),
        ((2, LOST, LOST, LOST), set()),
        ((0, 0, 0, 1), {"n1"}),
    ],
)
def test_node_fails_whose_ranks_fail_by_themselves(
    codes: Sequence[int | None], failed: set[str], attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_ranks(codes, monkeypatch)
    assert find_failed_nodes(attempt) == failed


@pytest.mark.parametrize("code", [2, 130])
def test_mistakes_and_ctrl_c_are_final(code: int, attempt: Path, tmp_path: Path) -> None:
    record_start(tmp_path, STAGES["pretrain"].parts)
    seal_checkpoint(tmp_path, 5)
    assert judge(attempt, code)[0] == code


def test_attempt_that_ended_before_its_stage_began(attempt: Path) -> None:
    verdict, line = judge(attempt, 128 + 9)
    assert verdict == 128 + 9
    assert "before the stage began" in line


SITE = "MODULES=() SCRATCH= CONTAINER_IMAGE= CONTAINER_MOUNTS= LOGS={logs} MAX_REQUEUES={limit}\n"
STUBS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "squeue": 'echo "${STATE:-RUNNING}"',
    "scontrol": 'echo "scontrol $*"',
}
STEP = """
python3 - <<TEXT
import sys
sys.path.insert(0, "megatron_ipt")
from pathlib import Path
from attempts import record_start
run = Path("{run}")
record_start(run, ["part-*"])
{new}
TEXT
exit {code}
"""


def run_job(folder: Path, code: int, *, progress: bool, limit: int = 10, state: str = "RUNNING") -> tuple[int, str]:
    """A job whose step ends with `code`, under stubs of Slurm's commands: its exit code and its log."""
    tools, run = folder / "bin", folder / "run"
    for place in (tools, run):
        place.mkdir(exist_ok=True)
    for name, text in STUBS.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    (folder / "site.env").write_text(SITE.format(logs=folder / "logs", limit=limit))
    new = 'Path(run / "part-1").touch()' if progress else ""
    (folder / "step.sh").write_text(STEP.format(run=run, new=new, code=code))
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "MEGATRON_IPT_SITE": str(folder / "site.env"),
        "SLURM_JOB_ID": "7",
        "SLURM_RESTART_COUNT": "3",
        "STATE": state,
    }
    script = f"source slurm/common.sh; run_stage bash {folder / 'step.sh'}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert list((folder / "logs" / "attempts").iterdir()) == []
    return done.returncode, done.stdout


def test_job_is_requeued_while_it_makes_progress(tmp_path: Path) -> None:
    code, log = run_job(tmp_path, os.EX_TEMPFAIL, progress=True)
    assert code == os.EX_TEMPFAIL
    assert log.splitlines()[-2:] == ["requeued: restart 4", "scontrol requeue 7"]


def test_job_without_progress_stops_and_says_so(tmp_path: Path) -> None:
    code, log = run_job(tmp_path, os.EX_TEMPFAIL, progress=False)
    assert code == os.EX_TEMPFAIL
    assert f"has finished nothing new in {tmp_path / 'run'} since it started: not requeued" in log
    assert "scontrol" not in log


@pytest.mark.parametrize(("state", "limit"), [("COMPLETING", 10), ("RUNNING", 3)])
def test_job_that_was_cancelled_or_requeued_too_often_is_not_requeued(state: str, limit: int, tmp_path: Path) -> None:
    code, log = run_job(tmp_path, os.EX_TEMPFAIL, progress=True, state=state, limit=limit)
    assert code == os.EX_TEMPFAIL
    assert "scontrol" not in log


def test_finished_job_ends_well(tmp_path: Path) -> None:
    assert run_job(tmp_path, 0, progress=True) == (0, "")
