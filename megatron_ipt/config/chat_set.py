"""Settings for the sets that a pre-trained model is instruction-tuned on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from megatron_ipt.config.settings import DEFAULT_SEED, NotIdentity, Seed, Settings


class ChatSetConfig(Settings):
    """Conversion of conversations to sequences, by a chat template, with loss on the assistant's messages only."""

    input: Annotated[list[str], NotIdentity] = Field(
        description="JSONL (.gz, .zst, .bz2, .xz) or parquet files of conversations, globs allowed"
    )
    output: Annotated[str, NotIdentity] = Field(description="folder of the chat set")
    tokenizer: Annotated[str, NotIdentity] = Field(description="Hugging Face tokenizer folder of the model to tune")
    chat_template: Annotated[str | None, NotIdentity] = Field(  # the stage compares the text of the template
        None, description="Jinja file, or the template itself; that of the tokenizer if not set"
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="variables of the template, such as enable_thinking or date_string"
    )
    messages_key: str = Field("messages", description="field of the messages of a conversation")
    role_key: str = Field("role", description="field of a message with its role (ShareGPT: from)")
    content_key: str = Field("content", description="field of a message with its content (ShareGPT: value)")
    prompt_key: str = Field("prompt", description="field of the prompt (text or messages), in rows without messages")
    completion_key: str = Field(
        "completion", description="field of the answer (text or messages), in rows without messages"
    )
    seq_length: int = Field(4096, ge=1, description="tokens per sequence, which holds whole conversations")
    heldout_conversations: int = Field(
        0, ge=0, description="conversations reserved for evaluation; their prompts are not trained on"
    )
    bad_input: Literal["fail", "skip"] = Field(
        "fail", description="response to a row that holds no conversation, or one that the template rejects"
    )
    seed: Seed = Field(DEFAULT_SEED, description="seed of held-out choice, order and packing")
