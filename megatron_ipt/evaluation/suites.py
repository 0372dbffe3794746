"""Task suites: which tasks, with how many examples before each question, and what guessing scores."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron_ipt.errors import Problem, UserError


@dataclass(frozen=True)
class SuiteTask:
    """One task of lm-evaluation-harness as a suite uses it.

    `definition` is its YAML below lm_eval/tasks, `fields` what its `doc_to_*` read; of `evaluated_splits` and
    `fewshot_splits` the first that is at hand is taken, in lm-evaluation-harness's own order.
    """

    name: str
    num_fewshot: int
    chance: float
    definition: str
    fields: tuple[str, ...]
    evaluated_splits: tuple[str, ...] = ("validation",)
    fewshot_splits: tuple[str, ...] = ("train", "validation", "test")
    file_stems: tuple[str, ...] = ()
    is_by_subject: bool = False

    @property
    def stems(self) -> tuple[str, ...]:
        """The names a local file of this task may begin with."""
        return self.file_stems or (self.name,)


_TEST_FIRST = ("test", "validation")
_ARC_FIELDS = ("question", "choices", "answerKey")

# The InstructLM model cards: 0-shot piqa, hellaswag, winogrande; 5-shot social_iqa, ai2_arc, openbookqa, boolq, mmlu.
GENERAL = (
    SuiteTask("piqa", 0, 1 / 2, "piqa/piqa.yaml", ("goal", "sol1", "sol2", "label")),
    SuiteTask(
        "hellaswag", 0, 1 / 4, "hellaswag/hellaswag.yaml", ("activity_label", "ctx_a", "ctx_b", "endings", "label")
    ),
    SuiteTask(
        "winogrande",
        0,
        1 / 2,
        "winogrande/default.yaml",
        ("sentence", "option1", "option2", "answer"),
        file_stems=("winogrande", "winogrande_xl"),
    ),
    SuiteTask(
        "social_iqa", 5, 1 / 3, "siqa/siqa.yaml", ("context", "question", "answerA", "answerB", "answerC", "label")
    ),
    SuiteTask("arc_easy", 5, 1 / 4, "arc/arc_easy.yaml", _ARC_FIELDS, _TEST_FIRST),
    SuiteTask("arc_challenge", 5, 1 / 4, "arc/arc_challenge.yaml", _ARC_FIELDS, _TEST_FIRST),
    SuiteTask(
        "openbookqa", 5, 1 / 4, "openbookqa/openbookqa.yaml", ("question_stem", "choices", "answerKey"), _TEST_FIRST
    ),
    SuiteTask("boolq", 5, 1 / 2, "super_glue/boolq/default.yaml", ("passage", "question", "label")),
    SuiteTask(
        "mmlu",
        5,
        1 / 4,
        "mmlu/default/_mmlu.yaml",
        ("question", "subject", "choices", "answer"),
        _TEST_FIRST,
        ("dev", "validation", "test"),
        is_by_subject=True,
    ),
)
SUITES: dict[str, tuple[SuiteTask, ...]] = {"general": GENERAL}
_TAGS = {"ai2_arc": ("arc_easy", "arc_challenge")}


def choose_tasks(suite: str, names: Sequence[str] | None) -> list[SuiteTask]:
    """The tasks of `suite`, or those of them that `names` lists (`ai2_arc` names two).

    Raises:
        UserError: an unknown suite or task, each with the nearest known one.
    """
    if suite not in SUITES:
        raise UserError.of([_unknown("suite", suite, SUITES)])
    if names is None:
        return list(SUITES[suite])
    known = {task.name: task for task in SUITES[suite]}
    wanted = [name for given in names for name in _TAGS.get(given, (given,))]
    if problems := [_unknown("tasks", name, [*known, *_TAGS]) for name in wanted if name not in known]:
        raise UserError.of(problems)
    if not wanted:
        raise UserError("tasks", "[]", "no task is named", f"name some of: {', '.join(known)}")
    return [task for task in SUITES[suite] if task.name in wanted]


def _unknown(field: str, value: str, known: Iterable[str]) -> Problem:
    nearest = difflib.get_close_matches(value, list(known), n=1, cutoff=0.0)[0]
    return Problem(field, value, "no such task" if field == "tasks" else "no such suite", f"did you mean {nearest}?")
