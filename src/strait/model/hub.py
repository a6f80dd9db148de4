"""Model sources and hub uploads: the shipped model, a folder, or a hub, whose files stay in its cache.

Wherever a model can be named, ``user/name`` is a model on a hub and ``user/name@revision`` its branch, tag or commit.
The environment variables of huggingface_hub apply: ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``,
``HF_ENDPOINT``.
"""

from __future__ import annotations

from pathlib import Path

from strait.model.config import PARTS, ModelError
from strait.model.folder import SHIPPED
from strait.runtime.messages import first_line

_PATTERNS = ["config.json", "classes.txt", "README.md", "LICENSE*", "*.safetensors"]
_LIBRARY = "strait"


def find_folder(
    source: str | Path | None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a model, downloaded first if it is on a hub and not cached.

    Args:
        source: a folder, ``user/name`` or ``user/name@revision`` of a hub, or None or ``shipped`` for the model that
            ships with the package. An existing folder takes precedence over a hub model of the same name.
        revision: branch, tag or commit of a hub model.
        cache_dir: folder for downloads; the cache of huggingface_hub by default.
        token: for private models; by default, or if True, that of the stored login.
        local_files_only: use only the cache, without asking the hub.

    Raises:
        ModelError: if it is not available.
    """
    if source is None or (str(source) == "shipped" and not Path(source).is_dir()):
        source = SHIPPED
    if Path(source).is_dir():
        folder = Path(source)
        if revision is not None:
            raise ModelError(f"revision: {folder} is a folder and has no {revision}; only hub models have revisions")
        return folder
    if Path(source).is_file():
        raise ModelError(f"--model: {source} is a file; give the folder that contains it, {Path(source).parent}")
    name, _, named_revision = str(source).partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"--model: there is no folder {source}; create a model with: strait train --data DIR --model {source}"
        )
    if revision and named_revision and revision != named_revision:
        raise ModelError(f"--model: {source} already names a revision, which differs from {revision}")
    return _download(name, revision or named_revision or None, cache_dir, token, local_files_only)


def _download(
    name: str, revision: str | None, cache_dir: str | Path | None, token: str | bool | None, local_files_only: bool
) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=_PATTERNS,
                ignore_patterns=["*/*"],
                library_name=_LIBRARY,
            )
        )
    except Exception as error:
        model = name if revision is None else f"{name}@{revision}"
        reason = _reason(error, local_files_only)
        raise ModelError(f"--model: {model} is not a folder, and could not be downloaded: {reason}") from error


def push_folder(
    folder: Path,
    repo_id: str,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a model folder as one commit; the repository is created if needed.

    The same commit deletes model files of the repository that the folder lacks, so that the result is this model.

    Returns:
        The URL of the commit, or of the pull request.

    Raises:
        ModelError: if the hub refuses it.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name=_LIBRARY)
    try:
        repo_id = api.create_repo(repo_id, private=private, repo_type="model", exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=["classes.txt", *(f"{part}.safetensors" for part in PARTS)],
        )
    except Exception as error:
        raise ModelError(f"push_to_hub: {repo_id} could not be uploaded: {_reason(error, False)}") from error
    return str(commit.pr_url or commit.commit_url)


def _reason(error: Exception, local_files_only: bool) -> str:
    """The cause and the remedy in one line, where the messages of huggingface_hub take paragraphs."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        # Earlier versions of the library do not distinguish the two.
        in_part = isinstance(error, getattr(errors, "IncompleteSnapshotError", ()))
        state = "only a part of it is cached" if in_part else "it is not cached"
        if local_files_only:
            return f"{state}, and local_files_only forbids downloading it"
        if constants.HF_HUB_OFFLINE:
            return f"{state}, and HF_HUB_OFFLINE forbids downloading it"
        return f"{state}, and {constants.ENDPOINT} cannot be reached"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.GatedRepoError):
        return "access must be requested on its page; then log in: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub does not have it, or it is private: log in with hf auth login, or pass a token"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has the model, but no such branch, tag or commit"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the token does not allow it ({status}); log in with hf auth login, or pass another token"
    return first_line(error)
