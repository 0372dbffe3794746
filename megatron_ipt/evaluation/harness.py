"""The one place that calls lm-evaluation-harness, through its Python API with the semantics of `--model hf`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megatron_ipt.config.stages import EvaluateConfig
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.planning import Call
from megatron_ipt.evaluation.scores import Score, score_from

logger = logging.getLogger(__name__)

_CPU_BATCH_SIZE = "16"


def definitions_folder() -> Path:
    """lm_eval/tasks of the installed harness.

    Raises:
        UserError: the harness is not installed.
    """
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UserError("lm_eval", "(package)", "it is not installed", "pip install 'megatron-ipt[eval]'")
    return Path(spec.origin).parent / "tasks"


@contextmanager
def caches(*, offline: bool) -> Iterator[None]:
    """Keep what `datasets` caches in a folder that goes away; before the first import of the libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not offline:
        yield
        return
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    with TemporaryDirectory(prefix="megatron_ipt_eval_") as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        yield


def resolve_device(config: EvaluateConfig) -> tuple[str, str]:
    """The device and the number format to evaluate in.

    Raises:
        UserError: a device that is not there, or a number format that it has no use for.
    """
    import torch

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("device", device, "torch sees no GPU here", "device=cpu")
    on_cpu = device == "cpu"
    dtype = ("float32" if on_cpu else "float16") if config.dtype == "auto" else config.dtype
    if on_cpu and dtype == "float16":
        raise UserError("dtype", dtype, "CPUs have no fast half-precision arithmetic", "dtype=float32, or auto")
    return device, dtype


def choose_batch_size(config: EvaluateConfig, device: str) -> str:
    """On the CPU the harness's own search for what fits would run the largest batch first, for minutes."""
    return _CPU_BATCH_SIZE if device == "cpu" and config.batch_size == "auto" else config.batch_size


def load_model(model: str, device: str, dtype: str, batch_size: str) -> Any:
    """The harness's `hf` model, with BOS before every prompt.

    Raises:
        UserError: transformers cannot load it, or its tokenizer puts no BOS.
    """
    _check_tokenizer(model)
    from lm_eval.models.huggingface import HFLM

    try:
        return HFLM(pretrained=model, add_bos_token=True, dtype=dtype, device=device, batch_size=batch_size)
    except (OSError, ValueError, KeyError) as error:
        raise UserError("model", model, f"transformers cannot load it: {error}", "check the folder") from error


def score_calls(lm: Any, calls: Sequence[Call], seed: int, task_folder: Path | None) -> list[Score]:
    """Make `calls`; `task_folder` holds local task definitions, None takes the harness's own."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(task_folder), include_defaults=False) if task_folder else TaskManager()
    scores: list[Score] = []
    for call in calls:
        logger.info("%d-shot: %s", call.num_fewshot, ", ".join(planned.task.name for planned in call.tasks))
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=[planned.name for planned in call.tasks],
            num_fewshot=call.num_fewshot,
            limit=call.limit,
            task_manager=manager,
            log_samples=False,
            gen_kwargs={"do_sample": False},
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        scores += [
            score_from(results, planned.name, planned.task, planned.evaluated_split, planned.fewshot_split)
            for planned in call.tasks
        ]
    return scores


def _check_tokenizer(model: str) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, add_bos_token=True)
    except (OSError, ValueError) as error:
        reason = f"transformers cannot load its tokenizer: {error}"
        raise UserError("model", model, reason, "put the tokenizer's files into the folder") from error
    if tokenizer.bos_token_id is None or tokenizer.encode("text", add_special_tokens=True)[0] != tokenizer.bos_token_id:
        reason = "its tokenizer puts no BOS token before a text, and the suite is scored with one (add_bos_token=True)"
        raise UserError("model", model, reason, "export the model with a tokenizer that has a BOS token")
