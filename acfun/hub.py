"""Styles on the hub: a folder is uploaded as a repository, and what can go wrong is explained."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from acfun.errors import HubError
from acfun.model_card import CARD_NAME, MARK, CardFiles, build_model_card, write_model_card

STYLE_NAME = "style.safetensors"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def check_token() -> None:
    """Refuse, before any work is done, to upload without a token.

    Raises:
        HubError: none is set, and none was saved by logging in.
    """
    if get_token() is None:
        raise HubError(f"there is no token for the hub: {_LOG_IN}")


def add_card(folder: Path, described: Mapping[str, Any], repo_id: str, exports: Path | None, files: CardFiles) -> None:
    """Complete a folder that holds a style file: the model card, and all that lies in the folder `exports`.

    Args:
        folder: with the style file.
        described: `Style.describe()`.
        repo_id: where the folder goes.
        exports: exported files and the card's sample; None where there are none.
        files: what of them the card explains.
    """
    if exports is not None:
        shutil.copytree(exports, folder, dirs_exist_ok=True)
    title = repo_id.rpartition("/")[2]
    card = build_model_card(described, replace(files, style=STYLE_NAME), title=title, repo_id=repo_id)
    write_model_card(folder, card)


def push_folder(folder: Path, repo_id: str, *, private: bool | None = None, message: str = "Upload style") -> str:
    """Upload a folder's files to a model repository, which is made if need be; other files there stay.

    The token is the one that huggingface_hub finds: HF_TOKEN, or that of a login. A README.md on the hub that acfun
    did not write, or that a user took over, stays too.

    Args:
        folder: with the files.
        repo_id: "user/name"; a bare name is the user's own.
        private: whether a new repository is private; None: as the account has it by default.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        HubError: no token, no rights, no such place, or no network.
    """
    check_token()
    api = HfApi()
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        kept = [CARD_NAME] if _has_own_card(api, repo.repo_id) else []
        api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message=message, ignore_patterns=kept)
    # The hub's client raises errors of its HTTP library too, which share no parent with its own.
    except Exception as error:
        raise HubError(f"{repo_id} could not be uploaded, {_explain(error)}") from error
    return str(repo)


def _has_own_card(api: HfApi, repo_id: str) -> bool:
    """Whether the repository has a README.md that is not to be written anew."""
    with TemporaryDirectory() as directory:
        try:
            path = api.hf_hub_download(repo_id, CARD_NAME, local_dir=directory)
        except EntryNotFoundError:
            return False
        return MARK not in Path(path).read_text(encoding="utf-8", errors="replace")


def _explain(error: Exception) -> str:
    """What went wrong, and the remedy."""
    if isinstance(error, HFValidationError):
        return f"since that is no name of a repository ({error}): give user/name"
    if isinstance(error, OfflineModeIsEnabled):
        return "since HF_HUB_OFFLINE is set: unset it"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return f"the hub does not know the token (401): {_LOG_IN}"
    if status in {401, 403, 404}:
        return f"the token has no right to write there ({status}): use a token that may write, or your own user's name"
    if status is not None:
        return f"the hub answered {status} ({error}): try again later"
    text = f"{type(error).__name__}: {error}"
    return f"the hub cannot be reached, or broke off ({text}): go online, and check HF_ENDPOINT if it is set"
