"""Where a model comes from and goes to: the shipped one, a folder, a hub. A hub's files stay in its cache.

``user/name`` is a model on a hub, ``user/name@revision`` its branch, tag or commit, wherever a model can be named.
Everything that the hub's own library reads from the environment counts here, too: ``HF_HOME``, ``HF_HUB_CACHE``,
``HF_HUB_OFFLINE``, ``HF_TOKEN``, ``HF_ENDPOINT``.
"""

from __future__ import annotations

from pathlib import Path

from strait.model.config import PARTS, ModelError
from strait.model.folder import SHIPPED
from strait.runtime.messages import first_line

_WANTED = ["config.json", "classes.txt", "README.md", "LICENSE*", "*.safetensors"]
_LIBRARY = "strait"


def find_folder(
    source: str | Path | None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a model, downloaded first if a hub has it and the cache has not.

    Args:
        source: a folder, ``user/name`` or ``user/name@revision`` of a hub, or None or ``shipped`` for the model that
            ships with the package. A folder that is there goes before any other of the same name.
        revision: branch, tag or commit of a hub's model.
        cache_dir: where downloads are kept; the hub library's own cache by default.
        token: for private models; True for the one that was logged in with, which is also used without a word.
        local_files_only: take what the cache has, and ask no hub.

    Raises:
        ModelError: if it is not to be had.
    """
    if source is None or (str(source) == "shipped" and not Path(source).is_dir()):
        source = SHIPPED
    if Path(source).is_dir():
        folder = Path(source)
        if revision is not None:
            raise ModelError(f"revision: {folder} is a folder, which has no {revision}; only a hub's models have")
        return folder
    if Path(source).is_file():
        raise ModelError(f"--model: {source} is a file; a model is the folder that it lies in, {Path(source).parent}")
    name, _, named_revision = str(source).partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"--model: there is no folder {source}; make one with: strait train --data DIR --model {source}"
        )
    if revision and named_revision and revision != named_revision:
        raise ModelError(f"--model: {source} names a revision already, and {revision} is another")
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
                allow_patterns=_WANTED,
                ignore_patterns=["*/*"],
                library_name=_LIBRARY,
            )
        )
    except Exception as error:
        at = name if revision is None else f"{name}@{revision}"
        reason = _reason(error, local_files_only)
        raise ModelError(f"--model: {at} is no folder here, and no hub gave it: {reason}") from error


def push_folder(
    folder: Path,
    repo_id: str,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a model folder as one commit; the repository is made if there is none.

    Files of the repository that belong to a model, and that the folder does not have, go with the same commit: what is
    there afterwards is this model.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ModelError: if the hub does not take it.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name=_LIBRARY)
    try:
        repo_id = api.create_repo(repo_id, private=private, repo_type="model", exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=["classes.txt", *(f"{part}.safetensors" for part in PARTS)],
        )
    except Exception as error:
        raise ModelError(f"push_to_hub: {repo_id} was not taken: {_reason(error, False)}") from error
    return str(done.pr_url or done.commit_url)


def _reason(error: Exception, local_files_only: bool) -> str:
    """What went wrong and what to do, in one line: the hub library's own words take paragraphs."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        # Earlier versions of the library do not tell the two apart.
        in_part = isinstance(error, getattr(errors, "IncompleteSnapshotError", ()))
        what = "the cache has a part of it alone" if in_part else "the cache does not have it"
        if local_files_only:
            return f"{what}, and local_files_only forbids to download it"
        if constants.HF_HUB_OFFLINE:
            return f"{what}, and HF_HUB_OFFLINE forbids to download it"
        return f"{what}, and {constants.ENDPOINT} cannot be reached"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.GatedRepoError):
        return "its owner gives it to those who ask on its page; then log in: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub does not know it, or it is private: log in with hf auth login, or give a token"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub knows the model, but no such branch, tag or commit"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the token does not allow it ({status}); log in with hf auth login, or give another token"
    return first_line(error)
