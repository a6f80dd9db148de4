"""Data sets of a hub: whether a name is one, and their tables and shards."""

from __future__ import annotations

import difflib
import os
from functools import cache
from pathlib import Path

from strait.data.errors import DataError
from strait.data.folders import SPLITS
from strait.data.shards import HubTable, StoredFile, hub
from strait.runtime.messages import first_line

_TIMEOUT = 10  # seconds


def is_hub_id(data: str) -> bool:
    """Whether ``--data`` could name a data set on a hub."""
    return data.count("/") == 1 and not data.startswith((".", "/", "~")) and not data.endswith("/")


def refuse_missing(data: str) -> None:
    """Refuse what is neither here nor could be on a hub.

    Raises:
        DataError: with the nearest name that is here, if there is one.
    """
    parent = Path(data).parent
    if is_hub_id(data) and not parent.is_dir():
        return
    hint = ""
    if parent.is_dir() and os.access(parent, os.R_OK):
        near = difflib.get_close_matches(Path(data).name, [path.name for path in parent.iterdir()], 1)
        hint = f"; did you mean {parent / near[0]}?" if near else ""
    also = "" if parent != Path() and parent.is_dir() else " (nor is it a hub id such as user/name)"
    raise DataError(f"--data: {data} does not exist{also}{hint}")


def hub_shards(data: str, kinds: tuple[str, ...]) -> list[StoredFile]:
    """The files of a hub's data set of the first of some suffixes that it has.

    Raises:
        DataError: if no hub gives it.
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
    """Whether a hub's data set has a split of this kind.

    Raises:
        DataError: if no hub gives it.
    """
    import datasets

    _ask_once(data)
    names = datasets.get_dataset_split_names(data)
    return any(alias in names for alias in SPLITS[split])


def hub_table(data: str, split: str) -> HubTable:
    """A split of a hub's data set, or the first that it has, copied to this machine by the library datasets.

    Raises:
        DataError: if no hub gives it.
    """
    import datasets

    _ask_once(data)
    every = datasets.load_dataset(data)
    name = next((alias for alias in SPLITS[split] if alias in every), next(iter(every)))
    dataset = every[name]
    return HubTable(dataset.data, dataset.features.arrow_schema, data, str(dataset._fingerprint), _read_stored)


def _read_stored(path: str) -> bytes:
    """A file that the library has downloaded. A table may name any other, which is not opened for it."""
    from datasets import config
    from huggingface_hub import constants

    place = Path(path).resolve()
    for folder in (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE):
        if place.is_relative_to(Path(folder).resolve()):
            return place.read_bytes()
    raise ValueError(f"the row holds a path ({path}) and no image")


@cache
def _ask_once(data: str) -> None:
    """The library asks again and again, for half a minute, where a name is wrong or nothing answers."""
    from datasets import config
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        HfApi().dataset_info(data, timeout=_TIMEOUT)
    except OfflineModeIsEnabled:
        return  # then it asks nobody
    except Exception as error:
        copy = Path(config.HF_DATASETS_CACHE) / data.replace("/", "___")
        if not copy.exists():
            raise _not_there(data, error) from error


def _not_there(data: str, error: Exception) -> DataError:
    return DataError(f"--data: there is no folder {data} here, and no hub gave it: {first_line(error)}")
