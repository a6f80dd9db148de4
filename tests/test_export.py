"""Exported files generate without torch what the package generates: the same tokens, pixels within one of 255."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from strait.cli import main
from strait.data.classes import ClassNames
from strait.decoding.config import SCHEDULES, DecodingConfig
from strait.decoding.masking import num_masked
from strait.decoding.sampling import halton_scores
from strait.decoding.stratified import final_tokens
from strait.export import generate as numpy_side
from strait.export.onnx_files import export_onnx
from strait.model.config import ModelConfig, ModelError
from strait.model.strait import StraIT, random_model
from strait.pictures.images import to_pictures
from strait.randomness import gumbel, image_seeds, key, uniform, uniform_ids
from test_model_folder import CLASSES, CONFIG, SINGLE

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
ABSENT = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
with_libraries = pytest.mark.skipif(
    bool(ABSENT), reason=f"{', '.join(ABSENT)} not installed: pip install 'strait[export]'"
)
UPSAMPLED = dataclasses.replace(CONFIG, upsampler=CONFIG.bottom)
CASCADE = dataclasses.replace(CONFIG, tokenizer=dataclasses.replace(CONFIG.tokenizer, kind="cascade"))


@with_libraries
@pytest.mark.skipif(os.name != "posix", reason="limits are set by POSIX's resource module")
def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    """Files of at most 20 KB: the first graph does not fit, and what an earlier export wrote stays."""
    (tmp_path / "top.onnx").write_bytes(b"earlier")
    program = (
        "import resource, signal, sys; from pathlib import Path; from strait.export.onnx_files import export_onnx;"
        "from strait.model.strait import random_model; from test_model_folder import CLASSES, CONFIG;"
        "model = random_model(CONFIG, CLASSES); signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); export_onnx(model, Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{tmp_path / 'top.onnx'}'"
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("top.onnx", b"earlier")]


# The numpy half alone, against the package's own.


def test_the_noise_is_the_same_to_the_bit() -> None:
    seeds = torch.tensor([0, 1, -1, 2**62, -(2**63)])
    keys = key(key(7, seeds)[:, None], 3, torch.arange(50))
    numpy_keys = numpy_side.key(numpy_side.key(7, seeds.numpy())[:, None], 3, np.arange(50))
    assert np.array_equal(numpy_keys.astype(np.int64), keys.numpy())
    assert np.array_equal(numpy_side.uniform(numpy_keys), uniform(keys).numpy())
    assert np.array_equal(numpy_side.uniform_ids(numpy_keys, 300), uniform_ids(keys, 300).numpy())
    assert np.array_equal(numpy_side.key(-5, np.arange(4)).astype(np.int64), image_seeds(-5, torch.arange(4)).numpy())
    noise = numpy_side.gumbel(numpy_side.uniform(numpy_keys))
    np.testing.assert_allclose(noise, gumbel(uniform(keys)).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_leaves_as_many_masked(schedule: str) -> None:
    for start in (1, 2, 7, 16, 64, 255):
        for steps in (1, 2, 5, 18):
            unknown = start
            for step in range(steps):
                remaining = numpy_side.num_masked(schedule, step, steps, start, unknown)
                rows = [torch.tensor([value]) for value in (step, steps, start, unknown)]
                assert remaining == int(num_masked(schedule, *rows))
                unknown = remaining


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 5), (8, 8)])
def test_the_halton_order_is_the_same(grid: tuple[int, int]) -> None:
    assert np.array_equal(numpy_side.halton_scores(*grid), halton_scores(grid, torch.device("cpu")).numpy())


@pytest.mark.parametrize(
    "classes", [["n00000001 cat", "cat"], ["n95 mask", "Mask"], ["n00000001 crane", "n00000002 crane", "n00000003"]]
)
def test_labels_of_classes_with_a_word_in_common(classes: list[str]) -> None:
    exported = numpy_side.Exported.__new__(numpy_side.Exported)
    exported.classes = classes
    words = {
        text for name in classes for text in (name, name.upper(), name.lower(), name.split()[-1], name.split()[0])
    }
    for text in words - {"n95"}:
        assert exported.label(text) == ClassNames(classes).find(text)
    with pytest.raises(ValueError, match="no class is called 'n95'"):
        exported.label("n95")


def test_a_library_that_the_written_program_lacks_is_named() -> None:
    run = "import runpy, sys; sys.modules['onnxruntime'] = None; sys.argv = ['generate.py', '--output', 'out']; "
    run += f"runpy.run_path({numpy_side.__file__!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("generate.py: ")
    assert done.stderr.endswith("; pip install numpy onnxruntime pillow\n")
    assert done.stderr.count("\n") == 1


# The files.


def checked(model: StraIT, folder: Path) -> numpy_side.Exported:
    """The files of a model, their output compared with its own."""
    from strait.export.onnx_files import export_onnx, largest_difference

    export_onnx(model, folder)
    assert largest_difference(model, folder) < 1e-4
    return numpy_side.Exported(folder, threads=1)


def compare(
    model: StraIT, exported: numpy_side.Exported, labels: list[int], seed: int, decoding: DecodingConfig
) -> None:
    """Same tokens, and pixels within one of 255."""
    exported.about["decoding"] = dataclasses.asdict(decoding)
    tokens = final_tokens(model.decoding_steps(torch.tensor(labels), seed, None, decoding))
    grids = exported.tokens(labels, seed, range(len(labels)), decoding.steps, decoding.temperature, decoding.guidance)
    assert len(grids) == len(tokens.levels)
    for grid, level in zip(grids, tokens.levels, strict=True):
        assert np.array_equal(grid, level.numpy())
    pixels = exported.pixels(grids).astype(int)
    own_pixels = np.stack([np.asarray(picture) for picture in to_pictures(model.decode(tokens))]).astype(int)
    assert pixels.shape == own_pixels.shape
    assert np.abs(pixels - own_pixels).max() <= 1


@pytest.fixture(scope="module")
def shipped() -> StraIT:
    return StraIT.from_pretrained()


@pytest.fixture(scope="module")
def shipped_files(shipped: StraIT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    checked(shipped, folder)
    return folder


@with_libraries
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance": 0.0, "temperature": (4.5, 1.0)},
        {"guidance": 2.0, "guidance_ramp": "linear", "steps": (18, 6), "schedule": "square"},
        {"keep": "halton", "steps": (7, 3), "schedule": "exponential"},
        {"guidance": 3.0, "guidance_ramp": "power_cosine", "steps": (8, 5)},
        {"guidance": 2.0, "guidance_start": 0.5, "steps": (8, 5)},
    ],
    ids=["its own settings", "without guidance", "ramped guidance", "Halton order", "power-cosine", "late guidance"],
)
def test_the_model_that_ships(shipped: StraIT, shipped_files: Path, changes: dict) -> None:
    exported = numpy_side.Exported(shipped_files, threads=1)
    decoding = dataclasses.replace(shipped.decoding, **changes)
    for seed, labels in ((0, [0, 29]), (-3, [-1, 12])):
        compare(shipped, exported, labels, seed, decoding)


@with_libraries
def test_settings_that_the_program_lacks_are_refused(shipped: StraIT, shipped_files: Path, tmp_path: Path) -> None:
    """When a model is exported, and when the program reads a description that somebody changed."""
    for name, changes in (
        ("revise", {"revise": "remask", "revise_share": 0.1}),
        ("quality", {"quality": 0.9}),
    ):
        model = random_model(SINGLE, CLASSES)
        model.decoding = dataclasses.replace(model.decoding, **changes)
        with pytest.raises(ValueError, match=r"^decoding: the exported program offers only quality 1 and revise none"):
            export_onnx(model, tmp_path / "never")
        assert not (tmp_path / "never").exists()
        about = json.loads((shipped_files / "export.json").read_text())
        about["decoding"].update(changes)
        (tmp_path / "export.json").write_text(json.dumps(about))
        with pytest.raises(ValueError, match=f"^decoding.{name}: this program offers only"):
            numpy_side.Exported(tmp_path)


@pytest.fixture(scope="module")
def single() -> StraIT:
    """A model of one level."""
    model = random_model(SINGLE, CLASSES, seed=4)
    model.decoding = DecodingConfig(steps=(5,), temperature=(2.0,), guidance=0.5)
    return model


@pytest.fixture(scope="module")
def single_folder(single: StraIT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model at ``model``, and at ``out`` its files as the command line writes them."""
    folder = tmp_path_factory.mktemp("single")
    single.save_pretrained(folder / "model")
    assert main(["export", "--model", str(folder / "model"), "--output", str(folder / "out")]) == 0
    return folder


@with_libraries
@pytest.mark.parametrize(
    "changes",
    [{}, {"keep": "halton", "steps": (40,), "schedule": "exponential"}],
    ids=["its own settings", "Halton order, more steps than tokens"],
)
def test_a_model_of_one_level(single: StraIT, single_folder: Path, changes: dict) -> None:
    decoding = dataclasses.replace(single.decoding, **changes)
    compare(single, numpy_side.Exported(single_folder / "out", threads=1), [0, 2, -1], 5, decoding)


@with_libraries
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "classes", "steps"),
    [(CASCADE, [], (3, 2)), (UPSAMPLED, CLASSES, (3, 2, 3, 2))],
    ids=["a cascade without classes", "an upsampler"],
)
def test_every_other_kind_of_model(
    config: ModelConfig, classes: list[str], steps: tuple[int, ...], tmp_path: Path
) -> None:
    model = random_model(config, classes, seed=4)
    model.decoding = DecodingConfig(steps=steps, temperature=(2.0,) * len(steps), guidance=0.5)
    labels = [0, 2, -1] if classes else [-1, -1]
    exported = checked(model, tmp_path)
    compare(model, exported, labels, 5, model.decoding)
    if config.upsampler is not None:  # which the same files can do without
        compare(model, exported, labels, 5, model.decoding.first(2))


@with_libraries
def test_files_of_another_model_are_told_apart(single_folder: Path) -> None:
    from strait.export.onnx_files import largest_difference

    with pytest.raises(ModelError, match=r"top.onnx: its logits differ by"):
        largest_difference(random_model(SINGLE, CLASSES, seed=5), single_folder / "out")


@with_libraries
def test_without_torch_the_pictures_are_those_of_the_package(
    shipped: StraIT, shipped_files: Path, tmp_path: Path
) -> None:
    blocked = "import sys; sys.modules['torch'] = sys.modules['strait'] = None; "
    script = str(shipped_files / "generate.py")
    words = ["--labels", "Lemon,RED_APPLE", "--count", "2", "--seed", "9", "--batch-size", "3", "--threads", "1"]
    run = "import runpy; sys.argv[0] = sys.argv.pop(1); runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", blocked + run, script, *words, "--output", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    labels = torch.tensor(shipped.labels(["lemon", "lemon", "red apple", "red apple"], 0, 9))
    steps = shipped.decoding_steps(labels, 9, torch.tensor([0, 1, 0, 1]))
    pictures = to_pictures(shipped.decode(final_tokens(steps)))
    paths = sorted(tmp_path.glob("*.png"))
    assert done.stdout.split() == [str(path) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(picture).astype(int)).max() <= 1


@with_libraries
def test_the_written_program_replaces_no_other_picture(
    single_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate.py", "--model", str(single_folder / "out"), "--output", str(tmp_path), "--threads", "1"]
    words += ["--labels", "n01443537"]
    monkeypatch.setattr(sys, "argv", words)
    assert numpy_side.main() == 0
    assert numpy_side.main() == 0, "the same picture again"
    picture = tmp_path / "0000.png"
    content = picture.read_bytes()
    picture.write_bytes(b"another")
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        numpy_side.main()
    assert picture.read_bytes() == b"another"
    monkeypatch.setattr(sys, "argv", [*words, "--overwrite"])
    assert numpy_side.main() == 0
    assert picture.read_bytes() == content


@with_libraries
def test_labels_are_found_as_the_package_finds_them(
    shipped: StraIT, shipped_files: Path, single: StraIT, single_folder: Path
) -> None:
    """Of the model that ships, and of one whose classes have WordNet ids."""
    for model, folder in ((shipped, shipped_files), (single, single_folder / "out")):
        exported = numpy_side.Exported(folder, threads=1)
        for index, name in enumerate(model.classes):
            ids = [name.split()[0]] if name.startswith("n0") else []
            for text in (name, name.upper(), name.replace(" ", "_"), str(index), model.classes.title(index), *ids):
                assert exported.label(text) == model.classes.find(text)
        for text in ("nothing", str(len(model.classes)), "-1"):
            with pytest.raises(ValueError, match="no class is called"):
                exported.label(text)


@with_libraries
def test_labels_with_commas_and_other_spellings_are_those_of_the_package(
    shipped_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = numpy_side.Exported(shipped_files, threads=1)
    monkeypatch.setattr(exported, "classes", ["cats,dogs", "tench, Tinca tinca", "Tomato___Early-blight", "caf\u00e9"])
    assert numpy_side.split_labels("Tench, tinca tinca,cats,dogs", exported) == [1, 0]
    assert numpy_side.split_labels("tomato early blight, #3 ,CAFE\u0301", exported) == [2, 3, 3]
    for text in ("", " , "):
        with pytest.raises(ValueError, match=r"--labels: .* names no class"):
            numpy_side.split_labels(text, exported)


@with_libraries
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", str(2**63)], "--seed: 9223372036854775808 does not fit into 64 bits"),
        (["--labels", ""], "--labels: '' names no class"),
        (["--output", ""], "--output: the name is empty"),
        (["--count", "0"], "--count and --batch-size"),
        (["--guidance", "nan"], "--guidance and --temperature must be finite"),
        (["--temperature", "inf"], "--guidance and --temperature must be finite"),
        (["--temperature", "-1"], "--guidance and --temperature must be finite"),
        (["--temperature", "1+2"], "--temperature: give one number, or 1, one for each level"),
    ],
)
def test_the_written_program_refuses_what_the_package_refuses(
    single_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    common = ["--model", str(single_folder / "out"), "--threads", "1"]
    output = [] if "--output" in words else ["--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["generate.py", *common, *output, *words])
    with pytest.raises(ValueError, match=re.escape(message)):
        numpy_side.main()
    assert not (tmp_path / "out").exists()


@with_libraries
def test_the_verb_writes_the_files_and_replaces_none(
    single: StraIT, single_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = single_folder / "out"
    names = ["export.json", "generate.py", "pixels.onnx", "top.onnx"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert json.loads((out / "export.json").read_text())["model"] == single.weights_hash()
    assert main(["export", "--model", str(single_folder / "model"), "--output", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"strait: {out} holds an export; choose another --output, or pass --overwrite\n"
    )


@pytest.mark.parametrize("name", ["generate.py", "top.onnx", "pixels.onnx"])
def test_a_file_of_the_users_is_not_replaced(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("mine")
    assert main(["export", "--output", str(tmp_path)]) == 2
    message = f"strait: {tmp_path / name} exists; choose another --output, or pass --overwrite\n"
    assert capsys.readouterr().err == message
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_library_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message == "strait: export needs the library onnx: pip install 'strait[export]'\n"
    assert not (tmp_path / "out").exists()


@with_libraries
def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    from strait.export.onnx_files import export_onnx

    model = random_model(CONFIG, CLASSES)
    model.trained.discard("bottom")
    with pytest.raises(ModelError, match="has no bottom yet"):
        export_onnx(model, tmp_path)
