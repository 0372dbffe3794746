"""Models of lm-evaluation-harness, as an evaluation loads them: the ids of chats, and what cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import write_small_mistral
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from megatron_ipt.config.evaluation import EvaluateConfig
from megatron_ipt.errors import UserError
from megatron_ipt.evaluation.harness import load_model
from megatron_ipt.evaluation.planning import model_args

TURNS = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = [{"role": "user", "content": "What rises in the hills?"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose tokenizer puts BOS before a text."""
    folder = write_small_mistral(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save_pretrained(folder)
    return folder


def settings(model: Path, **values: object) -> EvaluateConfig:
    return EvaluateConfig(model=str(model), output=str(model.parent / "out"), device="cpu", **values)


@pytest.mark.parametrize("template", ["{{ bos_token }}" + TURNS, TURNS, "\n{{ bos_token }}" + TURNS])
def test_ids_of_a_chat_are_those_of_transformers(template: str, model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(model)
    expected = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    config = settings(model, apply_chat_template=True)
    lm = load_model(config, model_args(config, "float32"), "cpu", "1")
    text = lm.apply_chat_template(CHAT)
    assert lm.tok_encode(text) == expected  # for log-likelihoods
    assert lm.tok_batch_encode([text])[0].tolist() == [expected]  # for answers


def test_plain_prompts_begin_with_one_bos(model: Path) -> None:
    config = settings(model)
    lm = load_model(config, model_args(config, "float32"), "cpu", "1")
    assert lm.tok_encode("rain")[:2] == [1, AutoTokenizer.from_pretrained(model).encode("r")[-1]]


def test_unknown_argument_is_refused_before_weights_are_read(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    config = settings(model, model_args={"paralelize": True})
    with pytest.raises(
        UserError, match=r"model_args = paralelize(.|\n)*no such argument(.|\n)*did you mean parallelize\?"
    ):
        load_model(config, model_args(config, "float32"), "cpu", "1")
    config = settings(model, model_args={"sliding_window": 16})  # of the model's configuration
    with pytest.raises(UserError, match="it cannot be loaded"):
        load_model(config, model_args(config, "float32"), "cpu", "1")
