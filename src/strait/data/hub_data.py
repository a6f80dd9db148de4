"""Data sets on a hub: ids, splits, tables and shards."""

from __future__ import annotations

import difflib
import os
from functools import cache
from pathlib import Path

from strait.data.folders import SPLITS
from strait.data.rows import DataError
from strait.data.shards import HubTable, StoredFile, hub
from strait.runtime.messages import first_line

_TIMEOUT = 10  # seconds


def is_hub_id(data: str) -> bool:
    """Whether ``--data`` has the form of a hub id."""
    return data.count("/") == 1 and not data.startswith((".", "/", "~")) and not data.endswith("/")


def refuse_missing(data: str) -> None:
    """Refuse a path that does not exist and cannot be a hub id.

    Raises:
        DataError: with the most similar existing path, if there is one.
    """
    parent = Path(data).parent
    if is_hub_id(data) and not parent.is_dir():
        return
    hint = ""
    if parent.is_dir() and os.access(parent, os.R_OK):
        near = difflib.get_close_matches(Path(data).name, [path.name for path in parent.iterdir()], 1)
        hint = f"; did you mean {parent / near[0]}?" if near else ""
    also = "" if parent != Path() and parent.is_dir() else " and is not a hub id such as user/name"
    raise DataError(f"--data: {data} does not exist{also}{hint}")


def hub_shards(data: str, kinds: tuple[str, ...]) -> list[StoredFile]:
    """The files of a hub data set that have the first suffix of ``kinds`` it contains.

    Raises:
        DataError: if the hub does not return it.
    """
    try:
        paths = sorted(str(path) for path in hub().find(f"datasets/{data}"))
    except Exception as error:
        raise _not_there(data, error) from error
    for suffix in kinds:
        files = [StoredFile(path, on_hub=True) for path in paths if os.path.splitext(path)[1] == suffix]
        if files:
            return files
    return []


def hub_has_split(data: str, split: str) -> bool:
    """Whether a hub data set has a split.

    Raises:
        DataError: if the hub does not return it.
    """
    import datasets

    _ask_once(data)
    names = datasets.get_dataset_split_names(data)
    return any(alias in names for alias in SPLITS[split])


def hub_table(data: str, split: str) -> HubTable:
    """A split of a hub data set (or else its first split), downloaded by the library datasets.

    Raises:
        DataError: if the hub does not return it.
    """
    import datasets

    _ask_once(data)
    splits = datasets.load_dataset(data)
    dataset = splits[next((alias for alias in SPLITS[split] if alias in splits), next(iter(splits)))]
    return HubTable(dataset.data, dataset.features.arrow_schema, data, str(dataset._fingerprint), _read_stored)


def _read_stored(path: str) -> bytes:
    """A file downloaded by the library. A table can name any path: no other file is opened."""
    from datasets import config
    from huggingface_hub import constants

    place = Path(path).resolve()
    for folder in (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE):
        if place.is_relative_to(Path(folder).resolve()):
            return place.read_bytes()
    raise ValueError(f"the row holds a path ({path}) and no image")


@cache
def _ask_once(data: str) -> None:
    """Fail fast on a wrong name or without a connection: the library itself retries for half a minute."""
    from datasets import config
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        HfApi().dataset_info(data, timeout=_TIMEOUT)
    except OfflineModeIsEnabled:
        return  # offline, the library does not connect at all
    except Exception as error:
        copy = Path(config.HF_DATASETS_CACHE) / data.replace("/", "___")
        if not copy.exists():
            raise _not_there(data, error) from error


def _not_there(data: str, error: Exception) -> DataError:
    return DataError(f"--data: {data} is not a local folder, and the hub did not return it: {first_line(error)}")
