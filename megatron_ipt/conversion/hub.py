"""Upload of an export to the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from megatron_ipt import __version__
from megatron_ipt.config.stages import ConvertConfig
from megatron_ipt.conversion.carried import find_carried
from megatron_ipt.conversion.hf_files import README_NAME
from megatron_ipt.conversion.model_card import describe_model, is_trained
from megatron_ipt.conversion.sources import ExportSource, find_export_source
from megatron_ipt.corpus.manifest import Manifest, read_manifest
from megatron_ipt.errors import TemporaryFailure, UserError
from megatron_ipt.reporting.model_card import ScoreRow, render_model_card

_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""Of all failed requests; the library that it belongs to depends on the version of huggingface_hub."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


def check_push(config: ConvertConfig) -> None:
    """Check what can be checked before the conversion.

    Raises:
        UserError: `push` names no repository, there is no token, or nothing would be uploaded.
    """
    if config.push is None:
        if config.scores:
            remedy = "set push, or leave scores out: the model card in the folder itself has none"
            raise UserError("scores", config.scores[0], "scores are for the model card on the hub", remedy)
        return
    if config.direction != "mcore-to-hf":
        reason = "only a Hugging Face folder can be uploaded"
        raise UserError("push", config.push, reason, "leave it out, or convert with direction=mcore-to-hf")
    if not _REPOSITORY.fullmatch(config.push):
        raise UserError("push", config.push, "not the name of a repository on the hub", "give it as OWNER/NAME")
    if get_token() is None:
        raise UserError("push", config.push, "there is no token", "set HF_TOKEN to one that may write there")


def push(config: ConvertConfig, scores: Mapping[Path, Sequence[ScoreRow]]) -> str:
    """Upload the finished export that `config` names; a line about it. A new repository is private.

    Args:
        scores: of the model, by the folder of the evaluation.

    Raises:
        UserError: the hub refuses it, or the scores are of another model.
        TemporaryFailure: the hub does not answer, or cannot take it now.
    """
    folder, repository = Path(config.output), config.push
    manifest = read_manifest(folder)
    assert manifest is not None and repository is not None
    for evaluation in scores:
        _check_scores(evaluation, manifest)
    names = [record.path for record in manifest.outputs]
    card = _card(find_export_source(config), repository, [row for rows in scores.values() for row in rows])
    operations = [CommitOperationAdd(name, folder / name) for name in names if card is None or name != README_NAME]
    if card is not None:
        operations.append(CommitOperationAdd(README_NAME, card.encode()))
    with _explaining(repository):
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        former = [name for name in api.list_repo_files(repository) if name.endswith(_WEIGHTS) and name not in names]
        deletions = [CommitOperationDelete(name) for name in former]  # a loader might take them for this model's
        message = f"Export of megatron-ipt {__version__}"
        commit = api.create_commit(repository, [*operations, *deletions], commit_message=message)
    return f"uploaded {len(operations)} files: {commit.commit_url}"


def _card(source: ExportSource, repository: str, scores: Sequence[ScoreRow]) -> str | None:
    """The model card with the scores; None for a copy of a Hugging Face model, which has that model's own."""
    if is_trained(source):
        return render_model_card(describe_model(source, find_carried(source)), repository.partition("/")[2], scores)
    if scores:
        reason = "the model was not trained, and its README is that of the model it is a copy of"
        raise UserError("scores", repository, reason, "leave scores out")
    return None


def _check_scores(evaluation: Path, export: Manifest) -> None:
    """Refuse scores that are not of the weights of this export."""
    evaluated = read_manifest(evaluation)
    read = {record.sha256 for record in evaluated.inputs} if evaluated is not None else set()
    weights = {record.sha256 for record in export.outputs if record.path.endswith(_WEIGHTS[0])}
    if not weights <= read:
        raise UserError("scores", evaluation, "they are of a model with other weights", "evaluate this one")


@contextmanager
def _explaining(repository: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or str(error).splitlines()[0]
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise TemporaryFailure(f"push: the hub answered {status} ({said})\nrun the same command again") from error
        remedy = "check the name, and that the token in HF_TOKEN may write there"
        raise UserError("push", repository, f"the hub answered {status}: {said}", remedy) from error
    except (_HTTP_ERROR, ConnectionError) as error:
        raise TemporaryFailure(f"push: the hub cannot be reached: {error}\nrun the same command again") from error
