"""The synthesis stage: raw text to an instruction-augmented corpus, in phases that can be killed and rerun."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import orjson

from megatron_ipt.config.settings import identity_of
from megatron_ipt.config.synthesis import SynthesizeConfig
from megatron_ipt.corpus.manifest import JsonObject, Stage, read_manifest, write_atomically
from megatron_ipt.corpus.rows import expand_inputs
from megatron_ipt.errors import Problem, UserError, problems_of
from megatron_ipt.lm.loading import EngineLoader, TokenizerLoader, find_engine_problems, load_engine
from megatron_ipt.lm.prompt_tokenizer import load_prompt_tokenizer
from megatron_ipt.synthesis.counts import Counts
from megatron_ipt.synthesis.filtering.chain import PairGates
from megatron_ipt.synthesis.filtering.near_duplicates import NearDuplicates
from megatron_ipt.synthesis.generation.executors import Phase, find_executor_problems, run_phases, submit_phases
from megatron_ipt.synthesis.generation.failures import check_failures
from megatron_ipt.synthesis.generation.finishing import DOCUMENTS_NAME, PAIRS_NAME, Finisher, corpus_file
from megatron_ipt.synthesis.generation.generating import GenerationWorker, open_decontaminator
from megatron_ipt.synthesis.generation.parts import Workspace
from megatron_ipt.synthesis.generation.progress import JointProgress
from megatron_ipt.synthesis.generation.rephrasing import read_prompt
from megatron_ipt.synthesis.quality.report import QualityReport
from megatron_ipt.synthesis.quality.timing import write_timing
from megatron_ipt.synthesis.rendering.renderer import Renderer

logger = logging.getLogger(__name__)

CONTAMINATION_NAME = "contamination.jsonl"


def synthesize(
    config: SynthesizeConfig,
    load_engine: EngineLoader = load_engine,
    load_tokenizer: TokenizerLoader = load_prompt_tokenizer,
) -> JsonObject | int:
    """Write the corpus, its pairs, the quality report and the manifest into `config.output`.

    Args:
        config: the settings.
        load_engine: opens the engine that `config.engine` names; called by each worker that has missing parts.
        load_tokenizer: loads the tokenizer of a model folder or hub name.

    Returns:
        The counts; or, if the work was submitted to Slurm, the id of the last job.

    Raises:
        UserError: a setting, an input or the model is invalid, the engine refuses too many texts, or the output folder
            holds something else.
        TemporaryFailure: the engine stopped or is unreachable, or some texts have no answer yet.
    """
    _check(config)
    stage = _open_stage(config)
    if stage.is_complete:
        logger.info("%s is complete, nothing to do", config.output)
        return stage.counts
    workspace, logs = _workspace(config), stage.folder / "logs"
    if stage.replaces_attempt:
        workspace.remove()
    stage.start()
    workspace.clear_tallies()
    phases = _phases(config, load_engine, load_tokenizer)
    if config.executor.kind == "slurm":
        return submit_phases(config.executor, phases, logs)
    try:
        with JointProgress("synthesize", workspace.tallies):
            run_phases(config.executor, phases[:1], logs)
        run_phases(config.executor, phases[1:], logs)
    except BaseException:
        if not workspace.has_results() and not logs.exists():
            workspace.remove()
            stage.abandon()
        raise
    manifest = read_manifest(stage.folder)
    assert manifest is not None
    return manifest.counts


def _phases(config: SynthesizeConfig, load_engine: EngineLoader, load_tokenizer: TokenizerLoader) -> list[Phase]:
    workers = min(config.executor.workers, len(expand_inputs(config.input)))
    phases = [
        Phase("generate", partial(_generate, config, load_engine, load_tokenizer), workers),
        Phase("settle", partial(_settle, config), 1),
        Phase("near-duplicates", partial(_find_near_duplicates, config), 1),
        Phase("finish", partial(_finish, config), workers),
        Phase("collect", partial(_collect, config), 1),
    ]
    return [phase for phase in phases if phase.name != "near-duplicates" or _near_duplicates(config) is not None]


def _generate(
    config: SynthesizeConfig, load_engine: EngineLoader, load_tokenizer: TokenizerLoader, worker: int, workers: int
) -> None:
    workspace = _workspace(config)
    worker_run = GenerationWorker(config, workspace, load_engine, load_tokenizer)
    watch = JointProgress("synthesize", workspace.tallies) if config.executor.kind == "slurm" else nullcontext()
    with watch:  # on Slurm, each worker shows the progress of all: the process that submitted them is gone
        worker_run.run(worker, workers)


def _settle(config: SynthesizeConfig, worker: int, workers: int) -> None:
    """Accept the pending parts if enough texts have been answered.

    Raises:
        UserError: the input has no texts, or the engine refused too many of them.
        TemporaryFailure: some texts have no answer yet.
    """
    workspace = _workspace(config)
    files = range(len(expand_inputs(config.input)))
    summaries = [summary for number in files if (summary := workspace.read_summary(number)) is not None]
    if not any(summary.parts or summary.contaminated for summary in summaries):
        raise UserError("input", ", ".join(config.input), "the input holds no texts", "give files with rows")
    requested = sum(summary.augmented_texts for summary in summaries)
    check_failures(workspace.failures(), requested, config.engine.endpoint.max_refused_share)
    workspace.accept_pending()


def _find_near_duplicates(config: SynthesizeConfig, worker: int, workers: int) -> None:
    workspace, gates, search = _workspace(config), PairGates(config.gates), _near_duplicates(config)
    assert search is not None
    files = range(len(expand_inputs(config.input)))
    for file_number in files:
        texts = (text for record in workspace.read_records(file_number) for text in record.texts)
        search.sign(file_number, (pair for text in texts for pair in gates.filter(text).pairs))
    search.match(len(files))


def _finish(config: SynthesizeConfig, worker: int, workers: int) -> None:
    workspace, finisher = _workspace(config), Finisher(config, open_decontaminator(config))
    search = _near_duplicates(config)
    for file_number in range(worker, len(expand_inputs(config.input)), workers):
        if workspace.read_state(file_number) is None:
            flags = None if search is None else map(bool, search.flags(file_number))
            finished = finisher.finish(workspace, file_number, flags)
            state = {"counts": finished.counts.to_dict(), "report": finished.report.to_row()}
            workspace.write_state(file_number, {**state, "contaminated": finished.contaminated})


def _collect(config: SynthesizeConfig, worker: int, workers: int) -> None:
    stage, workspace = _open_stage(config), _workspace(config)
    counts, report, skipped_rows = Counts(), QualityReport(config.seed), 0
    contaminated: list[JsonObject] = []
    files = range(len(expand_inputs(config.input)))
    for file_number in files:
        state, summary = workspace.read_state(file_number), workspace.read_summary(file_number)
        assert state is not None and summary is not None
        counts.add(Counts.from_dict(state["counts"]))
        report.merge(QualityReport.from_row(state["report"]))
        contaminated += [*summary.contaminated, *state["contaminated"]]
        skipped_rows += summary.skipped_rows
    for hit in contaminated:
        if hit["where"] == "rephrasing":  # the report is about texts and pairs
            continue
        report.add_contamination(hit["eval_set"], hit["where"])
    outputs = [corpus_file(stage.folder, name, number) for name in (DOCUMENTS_NAME, PAIRS_NAME) for number in files]
    outputs += report.write(stage.folder)
    if config.decontamination.eval_files:
        outputs.append(stage.folder / CONTAMINATION_NAME)
        write_atomically(outputs[-1], "".join(orjson.dumps(hit).decode() + "\n" for hit in contaminated))
    write_timing(stage.folder, workspace.clocks.glob("*.jsonl"))
    left_out = sum(hit["where"] == "text" for hit in contaminated)
    stage.finish(outputs, {**counts.to_dict(), "contaminated_texts": left_out, "skipped_rows": skipped_rows})
    workspace.remove()


def _check(config: SynthesizeConfig) -> None:
    problems = find_executor_problems(config.executor)
    if config.rephrase.fraction and config.render.stitch:
        reason = "each piece would have its own rephrasing, but the pieces are joined into one text"
        problems.append(Problem("render.stitch", True, reason, "set it to false, or set rephrase.fraction=0"))
    problems += problems_of(lambda: read_prompt(Path(config.rephrase.prompt) if config.rephrase.prompt else None))
    problems += find_engine_problems(config.engine)
    problems += problems_of(lambda: PairGates(config.gates))
    problems += problems_of(lambda: Renderer(config.render, config.seed))
    if problems:
        raise UserError.of(problems)


def _open_stage(config: SynthesizeConfig) -> Stage:
    model = Path(config.engine.model)
    inputs = [*expand_inputs(config.input), *(Path(one) for one in (config.examples, config.rephrase.prompt) if one)]
    inputs += expand_inputs(config.decontamination.eval_files) if config.decontamination.eval_files else []
    inputs += sorted(path for path in model.iterdir() if path.is_file()) if model.is_dir() else []
    identity = identity_of(config) | {"rephrase": config.rephrase.fraction}
    has_results = _workspace(config).has_results
    return Stage("synthesize", Path(config.output), identity, inputs, config.seed, has_results=has_results)


def _workspace(config: SynthesizeConfig) -> Workspace:
    return Workspace(Path(config.output))


def _near_duplicates(config: SynthesizeConfig) -> NearDuplicates | None:
    similarity = config.gates.near_duplicate_similarity
    return None if similarity is None else NearDuplicates(_workspace(config).root / "near_duplicates", similarity)
