"""Which configurations a table can start from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from strait.config import Config, config_names, config_path, read_config
from strait.model.config import ModelConfig
from strait.tables.table import Needs, Table


def _two_levels(config: ModelConfig) -> bool:
    return config.tokenizer.num_levels == 2


def _straits(config: ModelConfig) -> bool:
    return config.tokenizer.kind == "vqgan2-r"


def _upsampled(config: ModelConfig) -> bool:
    return _straits(config) and config.upsampler is not None


_NEEDS: dict[Needs, tuple[str, Callable[[ModelConfig], bool]]] = {
    "two levels": ("two levels of tokens", _two_levels),
    "vqgan2-r": ("StraIT's own tokenizer (tokenizer.kind vqgan2-r)", _straits),
    "upsampler": ("StraIT's own tokenizer and an upsampler", _upsampled),
}


@cache
def able(needs: Needs) -> tuple[str, ...]:
    """The packaged configurations that have it."""
    meets = _NEEDS[needs][1]
    return tuple(name for name in config_names() if meets(read_config(config_path(name)).model))


def check_start(table: Table, config: Config | ModelConfig, option: str = "--config") -> None:
    """Refuse a table of a configuration, or of a model, that cannot give it.

    Args:
        table: that is asked for.
        config: what its rows would start from.
        option: that named it.

    Raises:
        ValueError: naming the configurations that can.
    """
    words, meets = _NEEDS[table.needs]
    if not meets(config.model if isinstance(config, Config) else config):
        called = "this table" if table.number is None else f"table {table.number}"
        raise ValueError(f"{option}: {called} needs {words}, as in {', '.join(able(table.needs))}")
