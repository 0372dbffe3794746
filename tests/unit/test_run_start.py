"""What is known of a run before torch is imported: data that do not fit its length, a lost manifest, its plan."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_tokenizers import write_gpt2_like, write_qwen_like
from tokenizers import AddedToken

from megatron_ipt.checkpointing.contents import Contents, write_contents
from megatron_ipt.checkpointing.layout import iteration_folder, saved_iterations, write_latest
from megatron_ipt.cli.pretrain_gpt import main
from megatron_ipt.config.loading import config_from, save_config
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.corpus.indexed_writer import IndexedWriter
from megatron_ipt.corpus.manifest import FileRecord, Manifest, read_manifest, record_file, write_manifest
from megatron_ipt.errors import UserError
from megatron_ipt.training.changes import changed_settings, is_same
from megatron_ipt.training.export_checks import describe_export_problems, describe_tokenizer_problems
from megatron_ipt.training.preflight import check, is_finished, open_stage, resolve_settings

RUN_OF_0_1 = Path(__file__).parents[1] / "distributed" / "fixtures" / "run_of_0_1.tar.xz"
VOCABULARY, TOKENS = 512, {"large": 64_000, "small": 6_400}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets `large` and `small` of documents of 40 tokens, and a tokenizer."""
    folder = tmp_path_factory.mktemp("inputs")
    write_gpt2_like(folder / "tokenizer")
    for name, tokens in TOKENS.items():
        with IndexedWriter(folder / name, VOCABULARY) as writer:
            writer.add(np.full(tokens, 7, np.uint32), np.full(tokens // 40, 40))
    return folder


@pytest.fixture
def make_config(inputs: Path, tmp_path: Path) -> Any:
    def make(*overrides: str, **blend: dict[str, Any]) -> PretrainConfig:
        entries = [{"prefix": str(inputs / name), **share} for name, share in blend.items()]
        given = {
            "run": str(tmp_path / "run"),
            "model": {"preset": "tiny-mistral", "vocab_size": VOCABULARY},
            "data": {"tokenizer": str(inputs / "tokenizer"), "blend": entries, "split": "1", "seq_length": 32},
            "training": {"train_iters": 100, "global_batch_size": 8, "eval_iters": 0},
        }
        return config_from(PretrainConfig, given, overrides)

    return make


def refusal(config: PretrainConfig) -> str:
    with pytest.raises(UserError) as caught:
        check(config, 1)
    return str(caught.value)


def save_checkpoint(config: PretrainConfig) -> Path:
    """What a run leaves at iteration 50, without its weights."""
    run = Path(config.run)
    stage = open_stage(config)
    stage.start()
    save_config(config, run / "run_config.yaml")
    folder = iteration_folder(run, 50)
    folder.mkdir(parents=True)
    write_contents(folder, Contents(50, 400, [FileRecord("weights", 1, "0" * 64)]))
    inputs = [FileRecord(f"../../{one.path}", one.size_bytes, one.sha256) for one in stage.manifest.inputs]
    outputs = [record_file(folder / "checkpoint.json", folder)]
    values = {
        **vars(stage.manifest),
        "status": "complete",
        "inputs": inputs,
        "outputs": outputs,
        "counts": {"iteration": 50},
    }
    write_manifest(folder, type(stage.manifest)(**values))
    write_latest(run, 50)
    return folder


def test_epochs_beside_a_ramp_up_are_checked_at_once(make_config: Any) -> None:
    """Steps of 4 samples until more than 40 are read, then 8; what the error suggests is taken."""
    ramp = "training.rampup_batch_size=[4,4,40]"
    message = refusal(make_config(ramp, small={"epochs": 1}))
    assert "amount to 200 samples, but the run takes 760" in message
    assert "set training.train_iters=30," in message
    check(make_config(ramp, "training.train_iters=30", small={"epochs": 1}), 1)
    assert "[initial batch size, increment, samples]" in refusal(
        make_config("training.rampup_batch_size=[4]", small={"epochs": 1})
    )


def test_resumed_run_with_epochs_keeps_its_length(make_config: Any) -> None:
    blend: dict[str, dict[str, Any]] = {"large": {"weight": 1}, "small": {"epochs": 2}}
    save_checkpoint(make_config(**blend))
    check(make_config(**blend), 1)
    message = refusal(make_config("training.train_iters=200", **blend))
    assert "training.train_iters = 200" in message
    assert "keep training.train_iters=100, or start a new run from these weights" in message


def test_resumed_run_with_weights_may_go_on_longer(make_config: Any) -> None:
    save_checkpoint(make_config(large={}))
    check(make_config("training.train_iters=200", large={}), 1)


def test_transformer_engine_does_not_share_packed_samples(make_config: Any) -> None:
    settings = ["parallel.context_parallel_size=2", "data.reset_attention_mask=true"]
    engine, reason = "precision.transformer_impl=transformer_engine", "divides each document evenly over the ranks"
    refused = "data.reset_attention_mask = True\n    why:    with context parallelism, Transformer Engine " + reason
    assert refused in refusal(make_config(*settings, engine, large={}))
    assert reason not in refusal(make_config(*settings, large={}))
    assert reason not in refusal(make_config(settings[1], engine, large={}))


def test_run_is_finished_at_its_last_iteration_unless_a_setting_that_counts_changed(make_config: Any) -> None:
    save_checkpoint(make_config(large={}))
    stage = open_stage(make_config(large={}))
    stage.finish([], counts={"iteration": 100})
    assert is_finished(make_config(large={}), open_stage(make_config(large={})))
    assert is_finished(make_config("training.log_interval=7", large={}), stage)
    assert not is_finished(make_config("training.train_iters=101", large={}), stage)
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        is_finished(make_config("optimizer.lr=7e-5", large={}), stage)


def test_run_without_a_checkpoint_may_be_changed(make_config: Any) -> None:
    for sharded in (True, False):
        config = make_config(f"parallel.use_distributed_optimizer={sharded}", large={})
        check(config, 1)
        open_stage(config).start()
        save_config(config, Path(config.run) / "run_config.yaml")


def test_settings_that_conflict_with_the_optimizer_state_are_refused(make_config: Any) -> None:
    save_checkpoint(make_config("parallel.use_distributed_optimizer=False", large={}))
    overlapping = make_config("parallel.overlap_param_gather=true", large={})
    with pytest.raises(UserError, match="overlap_param_gather"):
        resolve_settings(overlapping, 2, on_gpus=True)


@pytest.mark.parametrize("sharded", [True, False])
def test_resumed_run_keeps_the_optimizer_state_as_it_was_saved(make_config: Any, sharded: bool) -> None:
    save_checkpoint(make_config(f"parallel.use_distributed_optimizer={sharded}", large={}))
    for on_gpus in (False, True):
        resolved = resolve_settings(make_config(large={}), 1, on_gpus=on_gpus)
        assert resolved.parallel.use_distributed_optimizer is sharded


@pytest.mark.parametrize("sharded", [True, False])
def test_optimizer_state_of_another_run_is_continued_as_it_was_saved(
    make_config: Any, tmp_path: Path, sharded: bool
) -> None:
    saved = make_config(f"parallel.use_distributed_optimizer={sharded}", large={})
    folder = save_checkpoint(saved)
    save_config(saved, folder / "run_config.yaml")
    (tmp_path / "run").rename(tmp_path / "base")
    given = [f"checkpoint.pretrained_checkpoint={tmp_path / 'base'}", "checkpoint.load_optimizer=true"]
    for on_gpus in (False, True):
        resolved = resolve_settings(make_config(*given, large={}), 1, on_gpus=on_gpus)
        assert resolved.parallel.use_distributed_optimizer is sharded
        resolved = resolve_settings(make_config(given[0], large={}), 1, on_gpus=on_gpus)
        assert resolved.parallel.use_distributed_optimizer is on_gpus


def test_weights_of_another_model_are_refused(make_config: Any, tmp_path: Path) -> None:
    saved = make_config(large={})
    save_config(saved, save_checkpoint(saved) / "run_config.yaml")
    (tmp_path / "run").rename(tmp_path / "base")
    given = f"checkpoint.pretrained_checkpoint={tmp_path / 'base'}"
    check(make_config(given, "model.hidden_dropout=0.1", large={}), 1)
    message = refusal(make_config(given, "model.num_layers=7", large={}))
    assert message.startswith("checkpoint.pretrained_checkpoint = differs from ")
    assert f"num_layers is {saved.model.num_layers} in the checkpoint, 7 in this configuration" in message


def test_ranks_to_profile_have_to_be_there(make_config: Any) -> None:
    profile = ["profile.tool=torch", "profile.ranks=[0,7]"]
    check(make_config(*profile, large={}), 8)
    assert "the run has ranks 0 to 0" in refusal(make_config(*profile, large={}))
    check(make_config(profile[1], large={}), 1)


def test_address_of_alerts_that_is_not_set_is_reported_before_the_run(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("alerts.url_variable=HOOK", large={})
    monkeypatch.setenv("HOOK", "https://example.org/hook")
    check(config, 1)
    monkeypatch.delenv("HOOK")
    assert "this environment variable is not set" in refusal(config)


def test_lost_manifest_is_taken_from_the_newest_checkpoint(make_config: Any) -> None:
    config = make_config(large={})
    save_checkpoint(config)
    run = Path(config.run)
    before = read_manifest(run)
    (run / "manifest.json").unlink()
    stage = open_stage(config)
    assert not stage.is_complete
    assert read_manifest(run) == before
    (run / "manifest.json").unlink()
    of_another_stage = iteration_folder(run, 1000)
    shutil.copytree(iteration_folder(run, saved_iterations(run)[0]), of_another_stage)
    write_manifest(of_another_stage, Manifest("average", "complete", {}))
    open_stage(config)
    assert read_manifest(run) == before
    (run / "manifest.json").unlink()
    with pytest.raises(UserError, match="seq_length: 32 then, 16 now"):
        open_stage(make_config("data.seq_length=16", large={}))


def test_folder_without_checkpoints_is_not_taken_over(make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="files that no stage of this run wrote"):
        open_stage(make_config(large={}))


def test_dry_run_describes_and_writes_nothing(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = make_config("training.train_iters=600", "precision.bf16=true", large={"weight": 3}, small={"weight": 1})
    save_config(config, tmp_path / "run.yaml")
    assert main([f"--config={tmp_path / 'run.yaml'}", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layout"] == {"ranks": 2, "tensor": 1, "pipeline": 1, "context": 1, "data": 2, "micro_batches": 4}
    assert told["data"] == {
        config.data.blend[0].prefix: {"samples": 3600, "epochs": 1.8},
        config.data.blend[1].prefix: {"samples": 1200, "epochs": 6.0},
    }
    assert told["automatic"] == {
        "device": "GPU (assumed because of bf16; none is present)",
        "parallel.sequence_parallel": False,
        "parallel.use_distributed_optimizer": True,
        "parallel.overlap_grad_reduce": True,
        "parallel.overlap_param_gather": True,
        "training.manual_gc": True,
    }
    assert told["config"]["parallel"]["overlap_param_gather"] is True
    assert told["schedule"]["tokens"] == 600 * 8 * 32
    assert told["schedule"]["checkpoints"] == 6
    assert told["memory_gib"]["stage 0"]["total"] > 0
    assert told["estimate"]["tokens_per_second"] > 0
    assert told["config"]["training"]["train_iters"] == 600
    assert "small is read 6.0 times" in told["warnings"][0]
    assert main([f"--config={tmp_path / 'run.yaml'}", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "train_iters: 600" in shown and "epochs: 6.0" in shown and "gpu_hours" in shown
    assert not Path(config.run).exists()


def test_dry_run_refuses_what_a_start_would(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(make_config(large={}), tmp_path / "run.yaml")
    assert main([f"--config={tmp_path / 'run.yaml'}", "--dry-run", "data.seq_length=1000000"]) == 2
    assert "longer than model.max_position_embeddings" in capsys.readouterr().err


def test_model_that_cannot_be_exported_is_reported_before_the_run(
    make_config: Any, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["model.family=llama", "model.sliding_window=16"]
    assert "Hugging Face's LlamaForCausalLM has no sliding window" in refusal(
        make_config(*settings, "checkpoint.export_hf=true", large={})
    )
    save_config(make_config(*settings, large={}), tmp_path / "run.yaml")
    assert main([f"--config={tmp_path / 'run.yaml'}", "--dry-run", "--json"]) == 0
    [warning] = json.loads(capsys.readouterr().out)["warnings"]
    assert "cannot be exported to Hugging Face: model.sliding_window = 16" in warning


def test_data_of_another_tokenizer_is_reported_before_the_run(make_config: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_gpt2_like(tmp_path / "other", added=[AddedToken("<|more|>")])
    write_gpt2_like(tmp_path / "tokenizer")
    data.mkdir()
    with IndexedWriter(data / "x", VOCABULARY) as writer:
        writer.add(np.full(6400, 7, np.uint32), np.full(160, 40))
    files = [[tmp_path / "other" / "tokenizer.json"], [data / "x.bin", data / "x.idx"]]
    read, written = ([record_file(file, data) for file in listed] for listed in files)
    write_manifest(data, Manifest("preprocess", "complete", {}, inputs=read, outputs=written))
    given = [
        f"data.blend=[{{prefix: {data / 'x'}}}]",
        "training.train_iters=2",
        f"data.tokenizer={tmp_path / 'tokenizer'}",
    ]
    [warning] = describe_export_problems(make_config(*given, large={}))
    assert "is not the one that the training data was made with" in warning
    assert "name the tokenizer of the training data" in refusal(
        make_config(*given, "checkpoint.export_hf=true", large={})
    )
    check(make_config(given[0], given[1], f"data.tokenizer={tmp_path / 'other'}", "checkpoint.export_hf=true"), 1)


def test_several_chat_templates_are_reported_before_the_run(make_config: Any, inputs: Path, tmp_path: Path) -> None:
    tokenizer = write_gpt2_like(tmp_path / "tokenizer")
    for template in ("a", "b"):
        folder = tmp_path / template
        folder.mkdir()
        (folder / "x.bin").touch()
        (folder / "chat_template.jinja").write_text(template)
        write_manifest(folder, Manifest("chat-set", "complete", {}, counts={"turn_ends": {"</s>": 1}}))
    blend = f"data.blend=[{{prefix: {tmp_path / 'a' / 'x'}}},{{prefix: {tmp_path / 'b' / 'x'}}}]"
    config = make_config(blend, f"data.tokenizer={tokenizer}", large={})
    [warning] = describe_export_problems(config)
    assert "several chat templates, and that of the tokenizer is none of them" in warning
    (tokenizer / "chat_template.jinja").write_text("b")
    assert not list(describe_export_problems(config))


def test_tokenizer_that_transformers_would_read_otherwise_is_reported(make_config: Any, inputs: Path) -> None:
    """transformers gives Qwen's pre-tokenizer to every qwen2 model."""
    qwen = write_qwen_like(inputs / "qwen")
    assert not list(describe_tokenizer_problems(make_config("model.family=llama", large={})))
    assert not list(describe_tokenizer_problems(make_config("model.family=qwen2", f"data.tokenizer={qwen}", large={})))
    [warning] = describe_tokenizer_problems(make_config("model.family=qwen2", large={}))
    assert "cannot be exported" in warning and "choose another model.family" in warning


def test_settings_that_a_former_release_did_not_have_leave_its_run_the_same(tmp_path: Path) -> None:
    """One that is part of a run's identity is left out of it while it has its default."""
    with tarfile.open(RUN_OF_0_1) as archive:
        archive.extractall(tmp_path, filter="data")
    recorded = read_manifest(tmp_path / "run")
    assert recorded is not None
    given = yaml.safe_load((tmp_path / "run" / "run_config.yaml").read_text())
    sections = {name: given[name] for name in ("model", "training")}
    data = given["data"] | {
        "tokenizer": str(tmp_path / "tokenizer"),
        "blend": [{"prefix": str(tmp_path / "documents")}],
    }
    config = config_from(PretrainConfig, {"run": str(tmp_path / "run"), "data": data, **sections})
    assert open_stage(config).manifest.difference(recorded) is None
    scaled = config.model_copy(update={"model": config.model.model_copy(update={"rope_type": "llama3"})})
    with pytest.raises(UserError, match="holds another run's result"):
        open_stage(scaled)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (1e-5, 1.0000001e-5, True),
        (1e-5, 1.00001e-5, False),
        (1, 1.0000001, False),
        (None, 0.5, False),
        ("a", "a", True),
    ],
)
def test_numbers_are_compared_at_the_precision_of_float32(old: Any, new: Any, same: bool) -> None:
    assert is_same(old, new) is is_same(new, old) is same


def test_a_change_from_or_to_a_default_is_told(make_config: Any) -> None:
    plain = make_config(large={"weight": 1})
    scaled = make_config("model.rope_type=linear", "model.rope_factor=2", "optimizer.lr=0.5", large={"weight": 1})
    assert changed_settings(plain, plain) == []
    learning_rate = plain.optimizer.lr
    assert sorted(changed_settings(plain, scaled)) == [
        "model.rope_factor was 1.0, is 2.0",
        "model.rope_type was default, is linear",
        f"optimizer.lr was {learning_rate}, is 0.5",
    ]
    assert sorted(changed_settings(scaled, plain)) == [
        "model.rope_factor was 2.0, is 1.0",
        "model.rope_type was linear, is default",
        f"optimizer.lr was 0.5, is {learning_rate}",
    ]
