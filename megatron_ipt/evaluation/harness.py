"""The one place that calls lm-evaluation-harness, through its Python API with the semantics of its command line."""

from __future__ import annotations

import difflib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.errors import Problem, UserError
from megatron_ipt.evaluation.planning import Call

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
    searches = config.batch_size == "auto" and config.backend == "hf"
    return _CPU_BATCH_SIZE if device == "cpu" and searches else config.batch_size


def open_tasks(names: Sequence[str], folders: Sequence[Path], metadata: Mapping[str, Any]) -> Any:
    """The harness's TaskManager that knows `names`: from `folders`, and its own tasks where those do not suffice.

    Raises:
        UserError: names that nobody knows, each with the nearest known one.
    """
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    paths = [str(folder) for folder in folders]
    manager = TaskManager(include_path=paths, include_defaults=False, metadata=dict(metadata))
    if set(names) <= set(manager.all_tasks):
        return manager
    manager = TaskManager(include_path=paths, metadata=dict(metadata))
    known = set(manager.all_tasks)
    unknown = [name for name in names if name not in known and not Path(name).is_file()]
    if unknown:
        remedies = ((name, difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]) for name in unknown)
        raise UserError.of([Problem("tasks", name, "no such task", f"did you mean {one}?") for name, one in remedies])
    return manager


def defined_in(manager: Any, name: str, folders: Sequence[Path]) -> Path | None:
    """That of `folders` which holds the definition of a task, group or tag; None for the harness's own."""
    entry = manager.task_index.get(name)
    if entry is not None and entry.tags and entry.yaml_path is None:
        entry = manager.task_index.get(min(entry.tags))  # a tag is defined where its tasks are
    if entry is None or entry.yaml_path is None:
        return None
    return next((folder for folder in folders if Path(entry.yaml_path).is_relative_to(folder)), None)


def load_model(config: EvaluateConfig, arguments: Mapping[str, Any], device: str, batch_size: str) -> Any:
    """The harness's model, made with `arguments`.

    Raises:
        UserError: the backend is not installed or cannot load it, or its tokenizer puts no BOS where one is asked for.
    """
    if config.backend == "vllm" and find_spec("vllm") is None:
        raise UserError("backend", "vllm", "vLLM is not installed", "pip install 'megatron-ipt[vllm]', or backend=hf")
    if config.add_bos_token:
        _check_tokenizer(config.model)
    from lm_eval.api.registry import get_model

    more = {"batch_size": batch_size, "max_batch_size": None, "device": device}
    try:
        return get_model(config.backend).create_from_arg_obj(dict(arguments), more)
    except (OSError, ValueError, KeyError) as error:
        raise UserError("model", config.model, f"it cannot be loaded: {error}", "check the folder") from error


def score_call(lm: Any, call: Call, config: EvaluateConfig, manager: Any) -> dict[str, Any]:
    """Make `call`; what the harness returns, with every question and answer in `samples`."""
    import lm_eval

    seed = config.seed
    results: dict[str, Any] = lm_eval.simple_evaluate(
        model=lm,
        tasks=[call.name],
        num_fewshot=call.task.num_fewshot,
        limit=call.limit,
        task_manager=manager,
        log_samples=True,
        gen_kwargs=dict(config.gen_kwargs),
        apply_chat_template=config.apply_chat_template,
        fewshot_as_multiturn=config.apply_chat_template and config.fewshot_as_multiturn,
        system_instruction=config.system_instruction,
        confirm_run_unsafe_code=config.confirm_run_unsafe_code,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return results


def keep_responses(lm: Any, file: Path) -> Any:
    """Wrap `lm` in a cache of its answers in `file`, from which a stopped evaluation resumes.

    It is the harness's own CachingLM, whose database here holds JSON instead of pickles, which could run code.
    """
    from lm_eval.api.model import LM, CachingLM
    from sqlitedict import SqliteDict

    class JsonCachingLM(CachingLM):
        def __init__(self) -> None:
            self.lm, self.cache_db = lm, str(file)
            self.dbdict = SqliteDict(self.cache_db, autocommit=True, encode=json.dumps, decode=json.loads)
            lm.set_cache_hook(self.get_cache_hook())

    LM.register(JsonCachingLM)  # simple_evaluate takes nothing else
    return JsonCachingLM()


def describe_sample(sample: Mapping[str, Any]) -> str:
    """A question with the model's answers as JSON, as `lm_eval --log_samples` writes it."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    numbered = {
        f"gen_args_{number}": {f"arg_{place}": value for place, value in enumerate(arguments)}
        for number, arguments in enumerate(sample["arguments"])
    }
    row = {
        **sample,
        "arguments": numbered,
        "resps": sanitize_list(sample["resps"]),
        "filtered_resps": sanitize_list(sample["filtered_resps"]),
        "target": str(sample["target"]),
    }
    return json.dumps(row, default=handle_non_serializable, ensure_ascii=False)


def _check_tokenizer(model: str) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, add_bos_token=True)
    except (OSError, ValueError) as error:
        reason = f"transformers cannot load its tokenizer: {error}"
        raise UserError("model", model, reason, "put the tokenizer's files into the folder") from error
    if tokenizer.bos_token_id is None or tokenizer.encode("text", add_special_tokens=True)[0] != tokenizer.bos_token_id:
        reason = "its tokenizer puts no BOS token before a text, and prompts are to have one (add_bos_token=True)"
        raise UserError("model", model, reason, "export the model with a tokenizer that has a BOS token")
