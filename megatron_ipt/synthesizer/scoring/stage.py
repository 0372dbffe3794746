"""The scoring stage: held-out questions and models in, results.json and report.html out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from megatron_ipt.config.scoring import ScoreConfig, ScoredModelConfig
from megatron_ipt.config.settings import identity_of
from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.corpus.jsonl import read_records
from megatron_ipt.corpus.manifest import Stage, write_atomically
from megatron_ipt.corpus.rows import expand_inputs
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.lm.loading import EngineLoader, TokenizerLoader, find_engine_problems, load_engine
from megatron_ipt.lm.prompt_tokenizer import load_prompt_tokenizer
from megatron_ipt.reporting.scoring import ModelMetrics, Results, SetSize, render_scoring
from megatron_ipt.synthesizer.scoring.heldout import HeldOut, choose_heldout
from megatron_ipt.synthesizer.scoring.metrics import measure
from megatron_ipt.synthesizer.scoring.model_run import ModelRun
from megatron_ipt.synthesizer.scoring.rows import AnswerRow, PairsRow
from megatron_ipt.synthesizer.scoring.samples import choose_samples

Row = TypeVar("Row", AnswerRow, PairsRow)
logger = logging.getLogger(__name__)

RESULTS_NAME, REPORT_NAME = "results.json", "report.html"


def score(
    config: ScoreConfig,
    load_engine: EngineLoader = load_engine,
    load_tokenizer: TokenizerLoader = load_prompt_tokenizer,
) -> dict[str, Any]:
    """Score every model and write the results; models that a killed run has finished are not run again.

    Returns the content of results.json.

    Raises:
        UserError: a setting, an input or a model is invalid, or the output folder holds another result.
    """
    _check(config)
    heldout = expand_inputs(config.input)
    stage = _open_stage(config, heldout)
    if stage.is_complete:
        logger.info("%s is finished: skipped", config.output)
        loaded: dict[str, Any] = json.loads((stage.folder / RESULTS_NAME).read_text(encoding="utf-8"))
        return loaded
    sets = choose_heldout(heldout, config.contexts_per_set, config.questions_per_context, config.seed)
    contexts = [one for chosen in sets.values() for one in chosen]
    runs = {name: ModelRun(name, config, load_tokenizer) for name in config.models}
    stage.start()
    for name, run in runs.items():
        files = _files_of(stage.folder, name)
        if not all(file.is_file() for file in files):
            _ask_model(config.models[name].engine, run, contexts, files, load_engine)
    rows = {name: _read_model(stage.folder, name) for name in config.models}
    results = _results(config, sets, rows)
    values = asdict(results)
    write_atomically(stage.folder / RESULTS_NAME, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    page = render_scoring(results, choose_samples(contexts, rows, config.seed))
    write_atomically(stage.folder / REPORT_NAME, page)
    written = [file for name in config.models for file in _files_of(stage.folder, name)]
    counts = {"sets": len(sets), "contexts": len(contexts), "models": len(config.models)}
    stage.finish([stage.folder / RESULTS_NAME, stage.folder / REPORT_NAME, *written], counts)
    return values


def _check(config: ScoreConfig) -> None:
    problems = [
        Problem("models", name, "not the name of a file", "leave the / out") for name in config.models if "/" in name
    ]
    for name, one in config.models.items():
        problems += [replace(each, field=f"models.{name}.{each.field}") for each in find_engine_problems(one.engine)]
    if problems:
        raise UserError.of(problems)


def _open_stage(config: ScoreConfig, heldout: Sequence[Path]) -> Stage:
    inputs = dict.fromkeys(heldout)
    for one in config.models.values():
        inputs.update(dict.fromkeys(_inputs_of(one)))
    identity = identity_of(config)
    return Stage("score-synthesizer", Path(config.output), identity, inputs, config.seed)


def _inputs_of(one: ScoredModelConfig) -> Iterable[Path]:
    folder = Path(one.engine.model)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return [*files, *([Path(one.examples)] if one.examples else [])]


def _files_of(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"answers.{name}.jsonl", folder / f"pairs.{name}.jsonl"


def _ask_model(
    engine_config: EngineConfig,
    run: ModelRun,
    contexts: Sequence[HeldOut],
    files: tuple[Path, Path],
    load_engine: EngineLoader,
) -> None:
    engine = load_engine(engine_config, run.tokenizer)
    try:
        answers, pairs = run.answer(engine, contexts), run.write_pairs(engine, contexts)
    finally:
        engine.close()
    _write(files[0], answers)
    _write(files[1], pairs)


def _write(file: Path, rows: Sequence[AnswerRow] | Sequence[PairsRow]) -> None:
    write_atomically(file, "".join(orjson.dumps(asdict(row)).decode() + "\n" for row in rows))


def _read_model(folder: Path, name: str) -> tuple[list[AnswerRow], list[PairsRow]]:
    answers, pairs = _files_of(folder, name)
    return _read(answers, AnswerRow), _read(pairs, PairsRow)


def _read(file: Path, kind: type[Row]) -> list[Row]:
    return [kind(**row) for row in read_records(file)]


def _results(
    config: ScoreConfig,
    sets: Mapping[str, Sequence[HeldOut]],
    rows: Mapping[str, tuple[list[AnswerRow], list[PairsRow]]],
) -> Results:
    sizes = {name: SetSize(len(chosen), sum(len(one.pairs) for one in chosen)) for name, chosen in sets.items()}
    models = {
        name: ModelMetrics(model.engine.model, model.examples is not None, *measure(*rows[name]))
        for name, model in config.models.items()
    }
    return Results(config.seed, sizes, models)
