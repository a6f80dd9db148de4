"""Whatever stands in a configuration, a model folder or a token cache: an error that names its cause, or success."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strait.config import Config, config_path, read_config
from strait.data.job import Job
from strait.data.sources import DataError
from strait.data.token_cache import TokenCache
from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig
from strait.model.strait import StraIT, random_model
from strait.tokenizer.config import TokenizerConfig
from strait.training.config import RunConfig, TransformerTrainingConfig
from strait.training.transformer_loop import Preview, TrainingTokens, TransformerTrainee
from strait.transformer.config import TransformerConfig
from strait.transformer.top import TopTransformer

CONFIG = ModelConfig(
    image_size=32,
    tokenizer=TokenizerConfig(
        channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=12, code_dim=4
    ),
    top=TransformerConfig(layers=1, width=16, mlp=32, heads=2),
    bottom=TransformerConfig(layers=1, width=16, mlp=32, heads=2),
)
MANY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 2**70, 1e300])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "~", "cosine", "vqgan", "../..", "1e-3", "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def paths(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a tree of dictionaries and lists."""
    places = [before] if before else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        places += paths(value, (*before, name))
    return places


def changed(tree: Any, path: tuple[Any, ...], value: Any, remove: bool) -> Any:
    tree = json.loads(json.dumps(tree))
    inner = tree
    for name in path[:-1]:
        inner = inner[name]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


@st.composite
def mutations(draw: st.DrawFn) -> Any:
    """Bytes to other bytes: some cut off, turned, put in or doubled."""
    kind = draw(st.sampled_from(["cut", "turn", "insert", "replace"]))
    place, bit = draw(st.floats(0, 0.9999)), draw(st.integers(0, 7))
    stuff = draw(st.binary(max_size=20))

    def mutate(content: bytes) -> bytes:
        at = int(place * len(content))
        if kind == "cut":
            return content[:at]
        if kind == "turn" and content:
            return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]
        return content[:at] + stuff + content[at + (len(stuff) if kind == "replace" else 0) :]

    return mutate


def names(error: Exception, cause: Path) -> None:
    """The message has to be one a person can use."""
    if str(cause) not in str(error):
        pytest.fail(f"{type(error).__name__} does not name {cause}: {error}")


@MANY
@given(st.data())
def test_a_setting_of_any_kind(tmp_path: Path, data: st.DataObject) -> None:
    tree = yaml.safe_load(config_path(data.draw(st.sampled_from(["smoke", "imagenet256", "imagenet512"]))).read_text())
    path = data.draw(st.sampled_from(paths(tree)))
    tree = changed(tree, path, data.draw(values), data.draw(st.booleans()))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    try:
        assert isinstance(read_config(file), Config)
    except ValueError as error:
        names(error, file)


@MANY
@given(mutations())
def test_a_configuration_of_any_bytes(tmp_path: Path, mutate: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(mutate(config_path("smoke").read_bytes()))
    try:
        assert isinstance(read_config(file), Config)
    except ValueError as error:
        names(error, file)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    random_model(CONFIG, ["a", "b"]).save_pretrained(folder)
    return folder


def opened(model: Path, folder: Path, name: str, content: bytes) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    (folder / name).write_bytes(content)
    try:
        StraIT.from_pretrained(folder)
    except (ValueError, OSError) as error:
        names(error, folder)


@MANY
@given(st.sampled_from(["config.json", "classes.txt", "top.safetensors", "tokenizer.safetensors"]), mutations())
def test_a_model_folder_of_any_bytes(model: Path, tmp_path: Path, name: str, mutate: Any) -> None:
    opened(model, tmp_path / "model", name, mutate((model / name).read_bytes()))


@MANY
@given(st.data())
def test_a_description_of_any_kind(model: Path, tmp_path: Path, data: st.DataObject) -> None:
    tree = json.loads((model / "config.json").read_text())
    path = data.draw(st.sampled_from(paths(tree)))
    tree = changed(tree, path, data.draw(values), data.draw(st.booleans()))
    opened(model, tmp_path / "model", "config.json", json.dumps(tree).encode())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "train"
    folder.mkdir()
    np.save(folder / "top.npy", np.arange(2 * 5 * 4, dtype=np.uint16).reshape(2, 5, 4))
    np.save(folder / "labels.npy", np.arange(5, dtype=np.int32))
    about = {"levels": ["top"], "shapes": [[2, 5, 4]], "grids": [[2, 2]], "source": "0", "variants": 2}
    (folder / "cache.json").write_text(json.dumps({**about, "sha256": hashes(folder)}))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.npy")}


def trained(cache: TokenCache) -> None:
    """One step of a transformer that fits the cache of ``cache``."""
    torch.manual_seed(0)
    shape = TransformerConfig(layers=1, width=16, mlp=32, heads=2)
    network = TopTransformer(shape, 40, 5, (2, 2))
    settings, run = TransformerTrainingConfig(batch_size=5), RunConfig(precision="float32", sample_every=0)
    tokens, job = TrainingTokens(cache), Job(torch.device("cpu"))
    trainee = TransformerTrainee(network, {0: network}, settings, run, tokens, job, Preview(no_preview))
    assert float(trainee.step(0)["loss"]) > 0


def no_preview() -> Any:
    raise AssertionError("no samples were asked for")


def read_through(cache: Path, folder: Path, name: str, content: bytes) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(cache, folder)
    (folder / name).write_bytes(content)
    try:
        token_cache = TokenCache(folder)
        token_cache.require([(2, 2)], [40], 5)
    except DataError as error:
        names(error, folder)
    else:
        levels, labels = token_cache.read(np.zeros(5, np.int64), np.arange(5))
        assert [len(level) for level in levels] == [5] * len(token_cache.names)
        assert len(labels) == 5
        trained(token_cache)


@MANY
@given(st.sampled_from(["cache.json", "top.npy", "labels.npy"]), mutations())
def test_a_token_cache_of_any_bytes(cache: Path, tmp_path: Path, name: str, mutate: Any) -> None:
    read_through(cache, tmp_path / "train", name, mutate((cache / name).read_bytes()))


@MANY
@given(st.data())
def test_a_token_cache_described_in_any_way(cache: Path, tmp_path: Path, data: st.DataObject) -> None:
    tree = json.loads((cache / "cache.json").read_text())
    path = data.draw(st.sampled_from(paths(tree)))
    tree = changed(tree, path, data.draw(values), data.draw(st.booleans()))
    read_through(cache, tmp_path / "train", "cache.json", json.dumps(tree).encode())


@pytest.mark.parametrize(
    ("name", "place", "value", "reason"),
    [
        ("top", (1, 2, 3), 60_000, "the token 60000, but the codebook only 40 codes"),
        ("labels", 2, 77, "the label 77, but the model only 5 classes"),
        ("labels", 4, -5, "the label -5, but the model only 5 classes"),
        ("top", (0, 0, 0), 39, None),  # in range: the hash alone can tell
    ],
)
def test_other_tokens_than_were_written(
    cache: Path, tmp_path: Path, name: str, place: Any, value: int, reason: str | None
) -> None:
    folder = tmp_path / "train"
    shutil.copytree(cache, folder)
    array = np.load(folder / f"{name}.npy")
    array[place] = value
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(DataError, match=rf"{folder} is damaged \(the hash of {name}.npy differs\); delete it"):
        TokenCache(folder)
    about = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**about, "sha256": hashes(folder)}))
    if reason is not None:  # even where somebody has hashed them anew
        with pytest.raises(DataError, match=rf"{folder} does not fit this model \(.*{reason}\); delete it"):
            TokenCache(folder).require([(2, 2)], [40], 5)
    else:
        TokenCache(folder).require([(2, 2)], [40], 5)


def test_nothing_pickled_is_opened(tmp_path: Path) -> None:
    """An array of objects is a pickle, and a pickle is code."""
    cache = tmp_path / "train"
    cache.mkdir()
    np.save(cache / "top.npy", np.array([[[print]]], dtype=object), allow_pickle=True)
    np.save(cache / "labels.npy", np.zeros(1, np.int32))
    about = {"levels": ["top"], "shapes": [[1, 1, 1]], "grids": [[1, 1]]}
    (cache / "cache.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="objects"):
        TokenCache(cache)


def test_decoding_defaults_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"decoding\."):
        DecodingConfig(steps=(0, 1))
