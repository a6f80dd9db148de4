"""A model folder holds a model bit for bit, grows part by part, and a file that does not fit is refused by name."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig, ModelError
from strait.model.parts import WithoutWeights
from strait.model.strait import StraIT, random_model
from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig

SMALL = TransformerConfig(layers=1, width=16, mlp=24, heads=2)
CONFIG = ModelConfig(
    image_size=16,
    tokenizer=TokenizerConfig(
        channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=12, code_dim=4
    ),
    top=SMALL,
    bottom=dataclasses.replace(SMALL, norm="pre", qk_norm=True),
)
SINGLE = dataclasses.replace(CONFIG, tokenizer=dataclasses.replace(CONFIG.tokenizer, kind="vqgan"), bottom=None)
SEPARATE = dataclasses.replace(CONFIG, tokenizer=dataclasses.replace(CONFIG.tokenizer, bottom_codebook_size=7))
CLASSES = ["n01443537 goldfish", "n04399382 teddy", "lesser panda"]
STEPS = DecodingConfig(steps=(3, 2), temperature=(1.5, 2.5), guidance=0.25, schedule="square", keep="halton")
PARTS = ["bottom", "tokenizer", "top"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model."""
    model = random_model(CONFIG, CLASSES, seed=1)
    model.decoding = STEPS
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("config", "classes"), [(CONFIG, CLASSES), (CONFIG, []), (SEPARATE, []), (SINGLE, CLASSES)])
def test_there_and_back_bit_for_bit(config: ModelConfig, classes: list[str], tmp_path: Path) -> None:
    model = random_model(config, classes, seed=3)
    single = config.bottom is None
    model.decoding = DecodingConfig(steps=(3,), temperature=(1.0,)) if single else STEPS
    model.save_pretrained(tmp_path)
    loaded = StraIT.from_pretrained(tmp_path)
    assert loaded.config == config
    assert list(loaded.classes) == classes
    assert loaded.decoding == model.decoding
    assert not loaded.training
    weights, loaded_weights = model.state_dict(), loaded.state_dict()
    assert weights.keys() == loaded_weights.keys()
    for name, value in weights.items():
        assert loaded_weights[name].dtype == value.dtype
        assert torch.equal(loaded_weights[name], value)
    assert loaded.weights_hash() == model.weights_hash()
    assert loaded.trained == set(loaded.config.parts) == {"tokenizer", "top"} | (set() if single else {"bottom"})
    model.pack()  # as the loaded one is
    assert torch.equal(loaded.generate(count=2, seed=5), model.generate(count=2, seed=5))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    for first, second in zip(
        loaded.tokenizer.encode(images).levels, model.tokenizer.encode(images).levels, strict=True
    ):
        assert torch.equal(first, second)


def test_the_hash_tells_one_set_of_weights_from_another() -> None:
    hashes = {random_model(CONFIG, CLASSES, seed=seed).weights_hash() for seed in (1, 2, 3)}
    assert len(hashes) == 3
    model = random_model(CONFIG, CLASSES, seed=1)
    assert model.weights_hash() in hashes
    with torch.no_grad():
        next(model.top.parameters()).view(-1)[0] += 1e-3
    assert model.weights_hash() not in hashes
    assert len(model.weights_hash()) == 12


def test_a_random_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    draws = torch.rand(3)
    torch.manual_seed(7)
    random_model(CONFIG)
    assert torch.equal(torch.rand(3), draws)


def test_saved_twice_the_files_are_the_same(tmp_path: Path) -> None:
    for name in ("first", "second"):
        random_model(CONFIG, CLASSES, seed=2).save_pretrained(tmp_path / name)
    StraIT.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "third")
    first = files(tmp_path / "first")
    assert sorted(first) == [
        "README.md",
        "bottom.safetensors",
        "classes.txt",
        "config.json",
        *(f"{p}.safetensors" for p in PARTS[1:]),
    ]
    assert files(tmp_path / "second") == first
    assert files(tmp_path / "third") == first
    StraIT.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "first")
    assert files(tmp_path / "first") == first


def test_weight_files_say_nothing_but_the_weights(folder: Path) -> None:
    for part in PARTS:
        content = (folder / f"{part}.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        assert set(header) == set(load_file(folder / f"{part}.safetensors"))
        assert all(set(entry) == {"dtype", "shape", "data_offsets"} for entry in header.values())


def test_half_precision_files_load_as_full_precision(folder: Path, tmp_path: Path) -> None:
    model = StraIT.from_pretrained(folder)
    model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    loaded = StraIT.from_pretrained(tmp_path / "half")
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], value.bfloat16().float())
    sizes = [(place / "top.safetensors").stat().st_size for place in (folder, tmp_path / "half")]
    assert sizes[1] < 0.75 * sizes[0]


# Files that do not fit.


def rewrite(folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / f"{part}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        StraIT.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 4000, b"PK\x03\x04 and so on"])
def test_a_file_that_is_no_safetensors_is_named(folder: Path, part: str, content: bytes) -> None:
    (folder / f"{part}.safetensors").write_bytes(content)
    assert refused(folder).startswith(f"{folder / part}.safetensors is not a safetensors file")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_named(folder: Path, share: float) -> None:
    path = folder / "top.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert refused(folder).startswith(f"{path} is not a safetensors file")


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save(random_model(CONFIG, CLASSES).top.state_dict(), folder / "top.safetensors")
    assert "top.safetensors is not a safetensors file" in refused(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_named(folder: Path, part: str) -> None:
    name = sorted(load_file(folder / f"{part}.safetensors"))[3]
    rewrite(folder, part, lambda tensors: tensors.pop(name))
    assert refused(folder) == f"{folder / part}.safetensors does not fit config.json: it lacks {name}"


@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_too_many_is_named(folder: Path, part: str) -> None:
    rewrite(folder, part, lambda tensors: tensors.update(more=torch.zeros(2)))
    message = refused(folder)
    assert message.startswith(f"{folder / part}.safetensors does not fit config.json: it holds more")


@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_shape_is_named(folder: Path, part: str) -> None:
    name, value = next((n, v) for n, v in sorted(load_file(folder / f"{part}.safetensors").items()) if v.ndim == 2)
    shape = list(value.shape)
    rewrite(folder, part, lambda tensors: tensors.update({name: torch.zeros([*shape[::-1], 1])}))
    message = refused(folder)
    assert message == (
        f"{folder / part}.safetensors does not fit config.json: {name} is {[*shape[::-1], 1]} instead of {shape}"
    )


def test_weights_of_another_configuration_are_refused(folder: Path, tmp_path: Path) -> None:
    wider = dataclasses.replace(CONFIG, top=dataclasses.replace(SMALL, width=32))
    random_model(wider, CLASSES).save_pretrained(tmp_path / "wider")
    (folder / "top.safetensors").write_bytes((tmp_path / "wider" / "top.safetensors").read_bytes())
    assert "top.safetensors does not fit config.json" in refused(folder)
    # A class more is a tensor of another shape, too.
    (folder / "top.safetensors").unlink()
    (folder / "classes.txt").write_text("".join(name + "\n" for name in [*CLASSES, "one more"]))
    assert "bottom.safetensors does not fit config.json" in refused(folder)


# The description.


def change_description(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(depth=3), "model.depth is not a setting"),
        (lambda c: c["model"]["tokenizer"].update(chanels=8), "model.tokenizer.chanels is not a setting"),
        (lambda c: c["model"]["bottom"].update(Layers=8), "model.bottom.Layers is not a setting"),
        (lambda c: c["decoding"].update(top_p=0.9), "decoding.top_p is not a setting"),
        (lambda c: c["model"]["top"].update(layers="two"), "model.top.layers must be int, not 'two'"),
        (lambda c: c["model"]["tokenizer"].update(kind="vqgan3"), "model.tokenizer.kind: 'vqgan3' is not one of"),
        (lambda c: c["model"].update(image_size=18), "image_size: 18 is not a multiple of the downsampling 4"),
        (lambda c: c["model"].update(bottom=None), "so add a bottom transformer"),
        (lambda c: c.update(format=1), "not of format 2"),
        (lambda c: c.pop("format"), "not of format 2"),
        (lambda c: c.pop("model"), "it has no 'model'"),
    ],
)
def test_a_description_that_cannot_be_names_what_is_wrong(
    folder: Path, change: Callable[[dict], object], message: str
) -> None:
    change_description(folder, change)
    error = refused(folder)
    assert error.startswith(str(folder / "config.json"))
    assert message in error


@pytest.mark.parametrize("content", ["", "{", "[]", '"hello"', "null"])
def test_a_description_that_is_none_is_named(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert refused(folder).startswith(str(folder / "config.json"))


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"--model: {tmp_path} is not a model folder (it has no config.json)"


def test_a_folder_that_is_not_there_says_what_makes_it(tmp_path: Path) -> None:
    message = refused(tmp_path / "none")
    assert message.startswith(f"--model: there is no folder {tmp_path / 'none'}")
    assert message.endswith(f"strait train --data DIR --model {tmp_path / 'none'}")


# Part by part.


def test_a_folder_grows_part_by_part(tmp_path: Path) -> None:
    whole = random_model(CONFIG, CLASSES, seed=4)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    for count, part in enumerate(("tokenizer", "top", "bottom"), start=1):
        whole.save_pretrained(tmp_path, parts=[part])
        loaded = StraIT.from_pretrained(tmp_path, pack=False)
        assert loaded.trained == set(("tokenizer", "top", "bottom")[:count])
        decoded = loaded.decode(loaded.tokenizer.encode(images))
        assert torch.equal(decoded, whole.decode(whole.tokenizer.encode(images)))
    assert loaded.weights_hash() == whole.weights_hash()


@pytest.mark.parametrize("missing", PARTS)
def test_a_missing_part_says_which_command_makes_it(folder: Path, missing: str) -> None:
    (folder / f"{missing}.safetensors").unlink()
    model = StraIT.from_pretrained(folder)
    with pytest.raises(ModelError, match=f"has no {missing} yet; .* strait train {missing} --data"):
        model.generate(count=1)
    with pytest.raises(ModelError, match=f"strait train {missing}"):
        model.require("tokenizer", "top", "bottom")
    model.require(*(part for part in PARTS if part != missing))
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_a_single_scale_model_has_no_bottom() -> None:
    model = random_model(SINGLE)
    assert model.config.parts == ("tokenizer", "top")
    model.require("tokenizer", "top", "bottom")
    with pytest.raises(ModelError, match="has no bottom"):
        model.part("bottom")


def test_classes_that_are_gone_leave_no_file(folder: Path) -> None:
    assert (folder / "classes.txt").read_text() == "".join(name + "\n" for name in CLASSES)
    random_model(CONFIG, []).save_pretrained(folder)
    assert not (folder / "classes.txt").exists()
    assert len(StraIT.from_pretrained(folder).classes) == 0


def test_a_model_is_loaded_without_torchs_compiler() -> None:
    """Drawing weights on the meta device would load it, for as long as torch itself takes."""
    program = "import sys; from strait import StraIT; StraIT.from_pretrained(); print('torch._dynamo' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"


def test_a_network_in_shape_alone_is_that_of_its_weights() -> None:
    with WithoutWeights():
        shapes = {name: (value.shape, value.device.type) for name, value in StraIT(CONFIG).state_dict().items()}
    assert shapes == {name: (value.shape, "meta") for name, value in StraIT(CONFIG).state_dict().items()}
