"""The model card of an export: README.md with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ipt import __version__
from megatron_ipt.reporting.pages import render_page
from megatron_ipt.reporting.rows import LineageRow, show_score, show_stderr


@dataclass(frozen=True)
class BaseModel:
    """The Hugging Face model that training started from.

    Attributes:
        name: the name of its folder, or its name on the hub.
        is_on_hub: whether `name` is a name on the hub.
        metadata: license and languages from its own model card, by the hub's keys.
        files: its license and notice files, which must accompany the weights.
    """

    name: str
    is_on_hub: bool
    metadata: Mapping[str, Any]
    files: Sequence[str]


@dataclass(frozen=True)
class DatasetRow:
    """A dataset of the blend; `share` is its share of all samples, documents and tokens are None if not recorded."""

    name: str
    share: str
    documents: int | None
    tokens: int | None


@dataclass(frozen=True)
class ScoreRow:
    """A score of the model; `is_share`: from 0 to 1, shown in percent."""

    task: str
    metric: str
    num_fewshot: int
    value: float
    stderr: float | None
    is_share: bool

    @property
    def shown(self) -> str:
        """The value with its standard error."""
        stderr = show_stderr(self.stderr, is_share=self.is_share)
        return show_score(self.value, is_share=self.is_share) + (f" ± {stderr}" if stderr else "")


@dataclass(frozen=True)
class ModelCard:
    """The content of the model card of a model, without its scores.

    Attributes:
        architecture: class of the model in transformers.
        training: values of the training run by name.
        lineage: the stages behind the model, nearest first.
    """

    architecture: str
    parameters: int
    base: BaseModel | None
    training: Mapping[str, str]
    datasets: Sequence[DatasetRow]
    lineage: Sequence[LineageRow]


def render_model_card(card: ModelCard, title: str, scores: Sequence[ScoreRow] = ()) -> str:
    """Render README.md."""
    metadata = _metadata(card, title, scores)
    return render_page("model_card.md", card=card, title=title, scores=scores, metadata=metadata, version=__version__)


def _metadata(card: ModelCard, title: str, scores: Sequence[ScoreRow]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=score.task,
            dataset_name=f"{score.task} ({score.num_fewshot} examples)",
            metric_type=score.metric,
            metric_value=score.value,
        )
        for score in scores
    ]
    base = card.base
    data = ModelCardData(
        base_model=base.name if base is not None and base.is_on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["megatron-ipt"],
        eval_results=results or None,
        model_name=title if results else None,
        **(base.metadata if base is not None else {}),
    )
    text: str = data.to_yaml()
    return text
