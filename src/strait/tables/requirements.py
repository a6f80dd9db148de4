"""Which configurations a table can be measured with."""

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
    """The packaged configurations that meet a requirement."""
    is_met = _NEEDS[needs][1]
    return tuple(name for name in config_names() if is_met(read_config(config_path(name)).model))


def check_start(table: Table, config: Config | ModelConfig, option: str = "--config") -> None:
    """Refuse a configuration or a model that a table cannot be measured with.

    Args:
        table: to measure.
        config: that its rows would start from.
        option: of the command line, for the message.

    Raises:
        ValueError: naming configurations that can be used.
    """
    requirement, is_met = _NEEDS[table.needs]
    if not is_met(config.model if isinstance(config, Config) else config):
        name = "this table" if table.number is None else f"table {table.number}"
        raise ValueError(f"{option}: {name} needs {requirement}, as in {', '.join(able(table.needs))}")
