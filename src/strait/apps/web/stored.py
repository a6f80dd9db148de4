"""The settings stored in a picture by any of the package's verbs, validated one by one."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from PIL import Image

from strait.apps.jobs import EditOptions
from strait.decoding.config import DecodingConfig
from strait.editing.config import EditConfig
from strait.editing.extension import Sides
from strait.pictures.recipe import edit_options, recipe_in

_DAMAGED = "picture: its settings are damaged, or of another kind"
_CONFIG, _SIDES = ([field.name for field in fields(kind)] for kind in (EditConfig, Sides))
_ACTIONS = ("infill", "relabel", "extend", "transfer")


@dataclass(frozen=True)
class StoredEdit:
    """The edit stored in a picture."""

    action: str
    options: EditOptions


@dataclass(frozen=True)
class Stored:
    """The settings stored in a picture.

    Attributes:
        label: class name; None for any class.
        seed: the user's seed.
        first: index of the first image to generate, so that this one is included.
        count: number of images to generate.
        decoding: all decoding settings.
        edit: None for a generated picture.
        model: hash of its weights, if stored.
        notes: what could not be restored, for the user.
    """

    label: str | None
    seed: int
    first: int
    count: int
    decoding: DecodingConfig
    edit: StoredEdit | None = None
    model: str | None = None
    notes: list[str] = field(default_factory=list)


def settings_in(path: str) -> dict[str, Any]:
    """The settings stored in a PNG.

    Raises:
        ValueError: if it is not a PNG, or has no settings.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return recipe_in(picture)
    except KeyError as error:
        raise ValueError("picture: it has no settings; PNGs written by strait do") from error
    except (RecursionError, TypeError) as error:
        raise ValueError(_DAMAGED) from error
    except Image.DecompressionBombError as error:
        raise ValueError("picture: it has too many pixels") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError("picture: it is not a PNG, or is damaged") from error


def stored_in(settings: dict[str, Any], most: int) -> Stored:
    """The settings of a single image (whose index is the last of those to generate), of a sheet, or of an edit.

    Args:
        settings: as written by ``strait generate``, ``strait edit``, the page and the service.
        most: images that can be generated at once.

    Raises:
        ValueError: if they are of another kind, or have invalid values.
    """
    try:
        decoding, notes = _decoding(settings["decoding"]), list[str]()
        if "index" in settings:
            label, index = settings["label"], _whole(settings["index"], 0, 10**5)
            first, count = max(0, index + 1 - most), min(index + 1, most)
        else:
            label, first, count = *_of_sheet(settings["labels"], notes), 0, _whole(settings["count"], 1, 10**9)
            if count > most:
                notes.append(f"the sheet shows {count} images, but the page generates {most} at once")
            count = min(count, most)
        if label is not None and not isinstance(label, str):
            raise TypeError(label)
        if "size" in settings:
            width, height = (_whole(length, 1, 10**5) for length in settings["size"])
            notes.append(f"it has {width}x{height} pixels; the page generates only the model's size")
        edit = _edit(settings, notes) if "edit" in settings else None
        model = settings.get("model")
        seed = _whole(settings["seed"], -(2**63), 2**63 - 1)
        return Stored(label, seed, first, count, decoding, edit, model if isinstance(model, str) else None, notes)
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(_DAMAGED) from error


def _decoding(stored: dict[str, Any]) -> DecodingConfig:
    """All decoding settings; those missing in older files get their defaults."""
    values = {**stored, "steps": tuple(stored["steps"]), "temperature": tuple(map(_number, stored["temperature"]))}
    return DecodingConfig(**{**values, "guidance": _number(stored["guidance"])})


def _of_sheet(labels: list[str] | None, notes: list[str]) -> tuple[str | None]:
    if labels is None:
        return (None,)
    if len(labels) > 1:
        notes.append(f"the sheet shows {len(labels)} classes; this is its first")
    return (labels[0],)


def _edit(settings: dict[str, Any], notes: list[str]) -> StoredEdit | None:
    """``strait edit`` stores only the options of its action, flat; page and service store all options, in groups."""
    action = settings["edit"]
    if action not in _ACTIONS:
        notes.append(
            f"it is a result of strait edit {str(action)[:20]}, which the page lacks; the other settings are restored"
        )
        return None
    flat = edit_options(settings)
    keep = flat.get("keep", 0.5)
    if keep == "region":
        keep = 0.5
    if action in ("infill", "relabel") or keep != flat.get("keep", keep):
        notes.append("a picture does not store its mask: paint it again")
    return StoredEdit(
        action,
        EditOptions(
            EditConfig(**{name: flat[name] for name in _CONFIG if name in flat}),
            Sides(**{name: _whole(flat[name], 0, 10**3) for name in _SIDES if name in flat}),
            _number(keep),
            flat.get("choose", "random"),
            bool(flat.get("keep_bottom", False)),
        ),
    )


def _whole(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise TypeError(value)
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(value)
    return float(value)
