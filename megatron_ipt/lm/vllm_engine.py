"""An engine on vLLM, in this process, with continuous batching."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from megatron_ipt.config.synthesis import EngineConfig
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.lm.engine import STOP, Completion, Failure, Request
from megatron_ipt.lm.loading import check_model_folder
from megatron_ipt.lm.process_reaper import start_process_reaper
from megatron_ipt.lm.prompt_tokenizer import PromptTokenizer
from megatron_ipt.system_errors import explain

_FULL_BATCHES_IN_FLIGHT = 2  # so that a full batch is waiting whenever requests finish
_SHUTDOWN_SECONDS = 30.0
_FINISHED = ("stop", "length")  # the other reasons are abort and error


class VllmEngine:
    """Decodes greedily with vLLM's LLMEngine; every completion is returned as soon as it is finished.

    Where two tokens are almost equally likely, rounding can make a completion depend on the other requests in the
    batch. `batch_invariant` is set nevertheless: draining the engine between parts would not help, because the
    composition of batches depends on timing. Only vLLM's batch-invariant kernels (VLLM_BATCH_INVARIANT=1) do.
    """

    batch_invariant = True

    def __init__(self, config: EngineConfig, tokenizer: PromptTokenizer) -> None:
        """Load the model, which can take minutes.

        Raises:
            UserError: vLLM is not installed, or cannot run this model with these settings.
        """
        check_model_folder(config)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # INFO lines would break the progress bar
        try:
            import vllm
        except ImportError as error:
            remedy = "pip install 'megatron-ipt[vllm]', or choose another engine"
            raise UserError("engine.kind", "vllm", f"vLLM cannot be imported: {error}", remedy) from error
        self._tokenizer, self._sampling = tokenizer, vllm.SamplingParams
        self._reaper = start_process_reaper()
        try:
            self._engine: Any = vllm.LLMEngine.from_engine_args(_engine_args(config))
        except (OSError, ValueError, RuntimeError) as error:
            if (failure := explain(error, default_path=config.model)) is not None:
                raise failure from error
            remedy = "see vLLM's messages above, and the settings in engine.vllm"
            raise UserError("engine.model", config.model, str(error).splitlines()[0], remedy) from error
        from vllm.platforms import current_platform

        self.devices = 0 if current_platform.is_cpu() else config.vllm.tensor_parallel_size
        self.capacity = _FULL_BATCHES_IN_FLIGHT * self._engine.vllm_config.scheduler_config.max_num_seqs

    def submit(self, request: Request) -> None:
        """Queue a request; it joins the running batch at the next step."""
        self._add(request.key, request.prompt, max_tokens=request.max_new_tokens, stop=[STOP])

    def collect(self) -> list[Completion]:
        """Step until at least one request in flight has finished."""
        return [self._completion(output) for output in self._finished()]

    def score(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Return the mean log-likelihood per token, in nats, of each answer after its prompt."""
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            self._add(number, [*prompt, *answer], max_tokens=1, prompt_logprobs=0, detokenize=False)
        scores = [0.0] * len(prompts)
        while self._engine.has_unfinished_requests():
            for output in self._finished():
                number = int(output.request_id)
                own = output.prompt_logprobs[len(prompts[number]) :]
                scores[number] = sum(
                    position[token].logprob for position, token in zip(own, answers[number], strict=True)
                ) / len(own)
        return scores

    def close(self) -> None:
        """Stop vLLM's processes."""
        self._engine.engine_core.shutdown(timeout=_SHUTDOWN_SECONDS)
        self._reaper.terminate()
        self._reaper.wait()

    def _add(self, key: int, prompt: Sequence[int], **settings: Any) -> None:
        from vllm.sampling_params import RequestOutputKind

        sampling = self._sampling(
            temperature=0.0,
            stop_token_ids=self._tokenizer.eos_ids,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **settings,
        )
        with _as_temporary_failure():
            self._engine.add_request(str(key), {"prompt_token_ids": list(prompt)}, sampling)

    def _finished(self) -> list[Any]:
        while True:
            with _as_temporary_failure():
                outputs = self._engine.step()
            if finished := [output for output in outputs if output.finished]:
                return finished

    def _completion(self, output: Any) -> Completion:
        reason = output.outputs[0].finish_reason
        if reason not in _FINISHED:
            failure = Failure("unfinished", f"vLLM ended this request with {reason}", is_refusal=False)
            return Completion(int(output.request_id), "", 0, failure)
        ids = list(output.outputs[0].token_ids)
        ends = [ids.index(eos) for eos in self._tokenizer.eos_ids if eos in ids]
        text, _, _ = self._tokenizer.decode(ids).partition(STOP)
        return Completion(int(output.request_id), text, min(ends, default=len(ids)))


@contextmanager
def _as_temporary_failure() -> Iterator[None]:
    """Convert the death of vLLM's engine process to a failure that a restart can resolve."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        remedy = "see its messages above, then run the same command again: finished parts are kept"
        raise TemporaryFailure(f"engine.kind = vllm: vLLM's engine process has died\n{remedy}") from error


def _engine_args(config: EngineConfig) -> Any:
    from vllm import EngineArgs

    given = config.vllm
    return EngineArgs(
        model=config.model,
        tokenizer=config.tokenizer or config.model,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        tensor_parallel_size=given.tensor_parallel_size,
        gpu_memory_utilization=given.gpu_memory_utilization,
        enable_prefix_caching=given.enable_prefix_caching,
        enforce_eager=given.enforce_eager,
        generation_config="vllm",  # ignore sampling settings in the generation_config.json of the model
        disable_log_stats=True,
    )
