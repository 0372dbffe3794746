"""Scores of any metric, what a stopped evaluation keeps, and suites from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.harness import describe_sample, keep_responses
from megatron_ipt.evaluation.kept_scores import keep, read_kept, samples_file, work_folder
from megatron_ipt.evaluation.local_data import find_local_tasks, own_files
from megatron_ipt.evaluation.planning import command_line, metadata_of, model_args, plan_call
from megatron_ipt.evaluation.scores import average_of, scores_from
from megatron_ipt.evaluation.suite import SuiteTask, choose_tasks, load_suite, shipped_suites


def returned(results: dict[str, dict[str, Any]], groups: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """What lm-evaluation-harness returns, with five questions a task."""
    leaves = [name for name in results if name not in (groups or {})]
    return {
        "results": {name: {"name": name, "alias": name, "sample_len": 5, **values} for name, values in results.items()},
        "group_subtasks": groups or {},
        "configs": {name: {"test_split": "test", "training_split": "train"} for name in leaves},
        "n-shot": dict.fromkeys(results, 2),
        "n-samples": {name: {"original": 9, "effective": 5} for name in leaves},
    }


def test_a_task_need_not_have_an_accuracy() -> None:
    (score,) = scores_from(
        returned({"lambada": {"perplexity,none": 31.5, "perplexity_stderr,none": 2.25}}), SuiteTask("lambada")
    )
    assert (score.metric, score.headline.value, score.headline.stderr) == ("perplexity", 31.5, 2.25)
    assert not score.headline.is_share
    assert (score.num_fewshot, score.evaluated_split, score.fewshot_split) == (2, "test", "train")
    assert average_of([score]) is None


def test_filters_and_the_suites_metric_are_kept_apart() -> None:
    values = {
        "exact_match,strict": 0.4,
        "exact_match_stderr,strict": 0.1,
        "exact_match,loose": 0.6,
        "exact_match_stderr,loose": "N/A",
        "bleu,loose": 12.5,
    }
    (score,) = scores_from(returned({"gsm": values}), SuiteTask("gsm", metric="exact_match,loose"))
    assert list(score.metrics) == ["exact_match,strict", "exact_match,loose", "bleu,loose"]
    assert (score.metric, score.headline.value, score.headline.stderr) == ("exact_match,loose", 0.6, None)
    assert not score.metrics["bleu,loose"].is_share


def test_tags_and_groups_without_a_score_give_those_of_their_tasks() -> None:
    values = {"acc,none": 0.5, "acc_stderr,none": 0.1}
    tag = scores_from(returned({"a": values, "b": values}), SuiteTask("tag", chance=0.25))
    assert [(score.task, score.samples, score.chance) for score in tag] == [("a", ["a"], 0.25), ("b", ["b"], 0.25)]
    bare = scores_from(returned({"g": {}, "a": values, "b": values}, {"g": ["a", "b"]}), SuiteTask("g"))
    assert [score.task for score in bare] == ["a", "b"]
    (whole,) = scores_from(returned({"g": values, "a": values, "b": values}, {"g": ["a", "b"]}), SuiteTask("g"))
    assert (whole.task, whole.samples, whole.parts, whole.questions) == ("g", ["a", "b"], {"a": 0.5, "b": 0.5}, 10)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    values = {"acc,none": np.float64(1 / 3), "acc_stderr,none": np.float32(0.5)}
    scores = scores_from(returned({"a": values}), SuiteTask("a", chance=0.25))
    work_folder(tmp_path).mkdir()
    assert read_kept(tmp_path, "a") is None
    keep(tmp_path, "a", scores, {"a": ['{"acc": 1}', '{"acc": 0}']})
    assert read_kept(tmp_path, "a") == scores
    assert samples_file(tmp_path, "a").read_text(encoding="utf-8").splitlines() == ['{"acc": 1}', '{"acc": 0}']


def test_answered_requests_are_not_asked_again(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

    class Counting(LM):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.most, self.asked = most, 0

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            answers = []
            for request in requests:
                if self.asked == self.most:
                    raise KeyboardInterrupt
                self.asked += 1
                answers.append((-0.1 * len(request.args[0]), False))
                self.cache_hook.add_partial("loglikelihood", request.args, answers[-1])
            return answers

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            pytest.fail("only log-likelihoods are asked for")

        def generate_until(self, requests: list[Any]) -> list[str]:
            pytest.fail("only log-likelihoods are asked for")

    requests = [Instance("loglikelihood", {}, ("x" * length, " y"), 0) for length in range(1, 31)]
    stopped = Counting(20)
    with pytest.raises(KeyboardInterrupt):
        keep_responses(stopped, tmp_path / "responses.db").loglikelihood(requests)
    resumed = Counting(30)
    answers = keep_responses(resumed, tmp_path / "responses.db").loglikelihood(requests)
    assert [tuple(answer) for answer in answers] == [(-0.1 * length, False) for length in range(1, 31)]
    assert resumed.asked == 10
    assert isinstance(keep_responses(resumed, tmp_path / "other.db"), LM)
    assert b"\x80\x04" not in (tmp_path / "responses.db").read_bytes()  # no pickles


def test_samples_have_the_harnesss_form() -> None:
    sample = {"doc": {"q": 1}, "arguments": [("p", " a"), ("p", " b")], "resps": [[(-1.5, True)]]}
    line = describe_sample({**sample, "filtered_resps": [(-1.5, True)], "target": 0, "acc": 1.0})
    assert '"arguments": {"gen_args_0": {"arg_0": "p", "arg_1": " a"}, "gen_args_1"' in line
    assert '"target": "0"' in line


def test_shipped_suites_are_the_papers() -> None:
    assert shipped_suites() == ["biomedicine", "context_qa", "finance", "general"]
    names = {suite: [task.name for task in load_suite(suite).tasks] for suite in ("biomedicine", "finance")}
    assert names["biomedicine"] == ["PubMedQA", "ChemProt", "RCT", "MQP", "USMLE"]
    assert names["finance"] == ["ConvFinQA", "Headline", "FiQA_SA", "FPB", "NER"]


def test_other_names_are_the_harnesss_tasks() -> None:
    suite = load_suite("general")
    chosen = choose_tasks(suite, ["gsm8k", "ai2_arc"], num_fewshot=3)
    assert [(task.name, task.num_fewshot) for task in chosen] == [
        ("arc_easy", 3),
        ("arc_challenge", 3),
        ("gsm8k", 3),
    ]
    assert choose_tasks(suite, ["gsm8k"])[0].num_fewshot is None
    with pytest.raises(UserError, match="no task is selected"):
        choose_tasks(suite, [])


def test_command_line_has_every_setting(tmp_path: Path) -> None:
    config = EvaluateConfig(
        model="m", output="o", data_dir=str(tmp_path), backend="vllm", model_args={"tensor_parallel_size": 2},
        apply_chat_template=True, system_instruction="Be brief.", add_bos_token=False, gen_kwargs={"temperature": 0},
    )  # fmt: skip
    arguments = model_args(config, "bfloat16")
    line = command_line(plan_call(SuiteTask("FPB", 0), "FPB", 10), config, arguments, Path("/tasks"), "auto")
    assert line == (
        "lm_eval --model vllm --model_args pretrained=m,add_bos_token=False,dtype=bfloat16,tensor_parallel_size=2"
        " --include_path /tasks --tasks FPB --num_fewshot 0 --gen_kwargs temperature=0 --batch_size auto --seed 1234"
        ' --limit 10 --apply_chat_template --fewshot_as_multiturn true --system_instruction "Be brief."'
        f' --metadata \'{{"data_dir": "{tmp_path}"}}\''
    )
    assert metadata_of(config, arguments)["data_dir"] == str(tmp_path)


def test_domain_tasks_without_rows_are_left_out(tmp_path: Path) -> None:
    tasks = list(load_suite("finance").tasks)
    (tmp_path / "FPB.test.jsonl").write_text("{}\n", encoding="utf-8")
    found, left_out = find_local_tasks(tmp_path, tasks)
    assert found == []
    assert [task.name for task in left_out] == ["ConvFinQA", "Headline", "FiQA_SA", "NER"]
    assert own_files(tmp_path, tasks) == [tmp_path / "FPB.test.jsonl"]
    with pytest.raises(UserError, match=r"RCT\.test\.jsonl"):
        find_local_tasks(tmp_path, load_suite("biomedicine").tasks)
