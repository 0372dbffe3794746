"""All calls of lm-evaluation-harness: through its Python API, with the semantics of its command line."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
import re
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
    """Return the folder lm_eval/tasks of the installed harness.

    Raises:
        UserError: the harness is not installed.
    """
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UserError("lm_eval", "(package)", "not installed", "pip install 'megatron-ipt[eval]'")
    return Path(spec.origin).parent / "tasks"


@contextmanager
def caches(*, offline: bool) -> Iterator[None]:
    """Configure the Hugging Face libraries by environment variables; enter it before they are first imported.

    With `offline`, nothing is downloaded, and `datasets` caches in a folder that is deleted on exit.
    """
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
    """Return the device and the number format to evaluate with.

    Raises:
        UserError: the device is not available, or the number format is too slow on it.
    """
    import torch

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("device", device, "torch finds no GPU", "use device=cpu")
    on_cpu = device == "cpu"
    dtype = ("float32" if on_cpu else "float16") if config.dtype == "auto" else config.dtype
    if on_cpu and dtype == "float16":
        raise UserError("dtype", dtype, "CPUs have no fast float16 arithmetic", "use dtype=float32 or auto")
    return device, dtype


def choose_batch_size(config: EvaluateConfig, device: str) -> str:
    """Return the batch size for the harness; on a CPU, `auto` is a fixed size."""
    # the search of the harness (0.4.13) starts with its largest batch, which would take minutes on a CPU
    searches = config.batch_size == "auto" and config.backend == "hf"
    return _CPU_BATCH_SIZE if device == "cpu" and searches else config.batch_size


def open_tasks(names: Sequence[str], folders: Sequence[Path], metadata: Mapping[str, Any]) -> Any:
    """Return a TaskManager of the harness that knows `names`.

    The harness's own tasks, which are slow to index, are included only if `folders` do not define all names.

    Args:
        names: tasks, groups, tags, or paths of task YAMLs.
        folders: folders with task definitions.
        metadata: passed to the tasks.

    Raises:
        UserError: lists the names that are unknown, each with the most similar known one.
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
        nearest = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0] for name in unknown}
        raise UserError.of(
            [Problem("tasks", name, "no such task", f"did you mean {nearest[name]}?") for name in unknown]
        )
    return manager


def defined_in(manager: Any, name: str, folders: Sequence[Path]) -> Path | None:
    """Return the folder, of `folders`, that defines a task, group or tag; None for the harness's own."""
    entry = manager.task_index.get(name)
    if entry is not None and entry.tags and entry.yaml_path is None:
        entry = manager.task_index.get(min(entry.tags))  # a tag is defined where its tasks are
    if entry is None or entry.yaml_path is None:
        return None
    return next((folder for folder in folders if Path(entry.yaml_path).is_relative_to(folder)), None)


def load_model(config: EvaluateConfig, arguments: Mapping[str, Any], device: str, batch_size: str) -> Any:
    """Create the harness's model.

    Args:
        config: the settings, of which backend, model and model_args are used.
        arguments: the arguments of the model.
        device: cuda or cpu.
        batch_size: a number, or auto.

    Raises:
        UserError: the backend is not installed, does not know an argument or cannot load the model, or BOS is
            configured and the tokenizer does not add it.
    """
    if config.backend == "vllm" and find_spec("vllm") is None:
        remedy = "pip install 'megatron-ipt[vllm]', or use backend=hf"
        raise UserError("backend", "vllm", "vLLM is not installed", remedy)
    if arguments["add_bos_token"]:
        _check_tokenizer(config.model)  # the harness (0.4.13) silently evaluates without BOS if there is none
    from lm_eval.api.registry import get_model
    from safetensors import SafetensorError

    backend, common = get_model(config.backend), {"batch_size": batch_size, "max_batch_size": None, "device": device}
    try:
        return backend.create_from_arg_obj(dict(arguments), common)
    except TypeError as error:
        _refuse_unknown_argument(error, config, backend)
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError("model", config.model, f"it cannot be loaded: {error}", "check the folder") from error


def score_call(lm: Any, call: Call, config: EvaluateConfig, manager: Any) -> dict[str, Any]:
    """Run `call` and return the harness's results, with every question and answer in `samples`."""
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
    """Wrap `lm` in a cache of its responses in `file`, from which an interrupted evaluation resumes.

    This is the harness's CachingLM with a database of JSON instead of pickles, which could run code when loaded.
    """
    from lm_eval.api.model import LM, CachingLM
    from sqlitedict import SqliteDict

    class JsonCachingLM(CachingLM):
        def __init__(self) -> None:
            self.lm, self.cache_db = lm, str(file)
            self.dbdict = SqliteDict(self.cache_db, autocommit=True, encode=json.dumps, decode=json.loads)
            lm.set_cache_hook(self.get_cache_hook())

    LM.register(JsonCachingLM)  # CachingLM is not an LM, and simple_evaluate (0.4.13) accepts only instances of LM
    return JsonCachingLM()


def describe_sample(sample: Mapping[str, Any]) -> str:
    """Serialize a question and the answers of the model to JSON, as `lm_eval --log_samples` does."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    numbered = {
        f"gen_args_{number}": {f"arg_{index}": value for index, value in enumerate(arguments)}
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


def _refuse_unknown_argument(error: TypeError, config: EvaluateConfig, backend: type) -> None:
    """Raise a UserError if `error` is about an argument of `model_args`.

    transformers and vLLM accept many arguments that the harness passes on, and raise this before they read weights.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if found is None or (name := found.group(1)) not in config.model_args:
        return
    known = list(inspect.signature(backend).parameters)
    (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    reason = f"the backend {config.backend} has no such argument"
    raise UserError("model_args", name, reason, f"did you mean {nearest}?") from error


def _check_tokenizer(model: str) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, add_bos_token=True)
    except (OSError, ValueError) as error:
        reason = f"transformers cannot load its tokenizer: {error}"
        raise UserError("model", model, reason, "copy the files of the tokenizer into the folder") from error
    if tokenizer.bos_token_id is None or tokenizer.encode("text", add_special_tokens=True)[0] != tokenizer.bos_token_id:
        reason = "its tokenizer does not put a BOS token before a text, as add_bos_token=true requires"
        remedy = "export the model with a tokenizer that has a BOS token, or set add_bos_token=false"
        raise UserError("model", model, reason, remedy)
