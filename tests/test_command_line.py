"""The command line as a person meets it: a folder of photographs in, images out, and errors of one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from strait.cli import main
from strait.commands import generated_files
from strait.decoding.config import AUTO_QUALITY
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures

SMALL = [
    *("--tokenizer_training.steps", "40", "--tokenizer_training.codebook.start", "10"),
    *("--top_training.steps", "30", "--bottom_training.steps", "30", "--run.sample_every", "20"),
]


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    model = tmp_path_factory.mktemp("models") / "model"
    assert run("train", "--config", "smoke", "--data", photo_folder, "--model", model, *SMALL) == 0
    return model


def test_help_and_version_do_not_load_torch() -> None:
    code = (
        "import sys; from strait.cli import main\n"
        "for words in (['--version'], ['--help'], ['train', '--help'], ['generate', '--help'],\n"
        "        ['edit', '--help'], ['edit', 'infill', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'datasets' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "strait 0." in done.stdout


@pytest.mark.parametrize("words", ["--help", "completion bash"])
def test_a_reader_that_has_enough_is_no_error(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "strait.cli", *words.split()], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_training_makes_every_part_with_logs_and_samples(trained: Path) -> None:
    for part in ("tokenizer", "top", "bottom"):
        assert (trained / f"{part}.safetensors").stat().st_size > 0
        steps = [json.loads(line)["step"] for line in (trained / "runs" / part / "log.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps))
        assert len(steps) >= 3
        assert list((trained / "runs" / part / "samples").glob("*.png"))
    last = json.loads((trained / "runs" / "tokenizer" / "log.jsonl").read_text().splitlines()[-1])
    for level in ("top", "bottom"):
        assert 0 < last[f"usage_{level}"] <= 1
        for name in (f"perplexity_{level}", f"perplexity_batch_{level}"):
            assert 1 - 1e-6 <= last[name] <= 64 + 1e-6, name  # the codes of the configuration smoke
    assert len((trained / "classes.txt").read_text().splitlines()) == 4


def test_the_same_command_again_gives_the_same_files(trained: Path, tmp_path: Path) -> None:
    name = (trained / "classes.txt").read_text().splitlines()[1]
    command = ("generate", "--model", trained, "--labels", name.upper(), "--seed", 5)
    assert run(*command, "--count", 3, "--output", tmp_path / "three") == 0
    files = sorted((tmp_path / "three").iterdir())
    assert len(files) == 3
    before = [file.read_bytes() for file in files]
    assert run(*command, "--count", 3, "--output", tmp_path / "three") == 0
    assert [file.read_bytes() for file in files] == before
    assert run(*command, "--count", 1, "--output", tmp_path / "one") == 0
    (first,) = (tmp_path / "one").iterdir()
    assert (first.name, first.read_bytes()) == (files[0].name, before[0])
    settings = json.loads(Image.open(first).info["strait"])
    assert (settings["seed"], settings["index"], settings["label"]) == (5, 0, name)


@pytest.mark.parametrize("verb", ["generate", "edit"])
def test_an_image_does_not_load_the_compiler(verb: str, trained: Path, tmp_path: Path) -> None:
    """Each of these modules takes about as long to import as the rest of the command."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    words = {"generate": ["generate"], "edit": ["edit", "infill", str(tmp_path / "red.png"), "--box", "0,0,20,20"]}
    arguments = [*words[verb], "--model", str(trained), "--output", str(tmp_path / "out")]
    program = (
        "import sys; from strait.cli import main; status = main(sys.argv[1:]);"
        "print(status, *sorted({'sympy', 'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert (done.stdout.splitlines() or [""])[-1] == "0", done.stderr


def test_an_image_depends_on_neither_its_batch_nor_other_labels(trained: Path, tmp_path: Path) -> None:
    common = ("generate", "--model", trained, "--count", 3, "--seed", 2)
    assert run(*common, "--labels", "0,1", "--batch-size", 2, "--output", tmp_path / "both") == 0
    assert run(*common, "--labels", "1", "--output", tmp_path / "one") == 0
    files = list((tmp_path / "one").iterdir())
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "both" / file.name).read_bytes() == file.read_bytes()


def test_files_of_the_user_are_never_replaced_silently(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("generate", "--model", trained, "--labels", "0", "--output", tmp_path)
    assert run(*command) == 0
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"mine")
    assert run(*command) == 2
    assert file.read_bytes() == b"mine"
    assert "--overwrite" in capsys.readouterr().err
    assert run(*command, "--overwrite") == 0
    assert file.read_bytes() != b"mine"


def test_the_bar_ends_at_the_steps_that_were_taken(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches of a grid of few tokens, asked for more steps than those."""
    bars: list[Any] = []

    class Watched(generated_files.tqdm):
        def close(self) -> None:
            bars.append((self.total, self.n))
            super().close()

    monkeypatch.setattr(generated_files, "tqdm", Watched)
    words = ("generate", "--model", trained, "--count", 3, "--batch-size", 2, "--steps", "200+2")
    assert run(*words, "--output", tmp_path) == 0
    top = StraIT.from_pretrained(trained).config.grids[0]
    taken = 2 * (top[0] * top[1] + 2)
    assert top[0] * top[1] < 200
    assert set(bars) == {(taken, taken)}
    bars.clear()
    words = ("generate", "--model", trained, "--count", 3, "--steps", "9+9", "--quality", 0)
    assert run(*words, "--overwrite", "--output", tmp_path) == 0
    assert set(bars) == {(2, 2)}


def test_steps_that_adapt_say_how_many_they_were(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("generate", "--model", trained, "--count", 3, "--output")
    assert run(*words, tmp_path / "auto", "--steps", "auto", "--quality", 0.5) == 0
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("forward passes")]
    counts = []
    for file in sorted((tmp_path / "auto").iterdir()):
        settings = json.loads(Image.open(file).info["strait"])
        assert settings["decoding"]["quality"] == 0.5
        counts.append(settings["passes"])
    means = "+".join(f"{sum(level) / 3:.1f}" for level in zip(*counts, strict=True))
    most = "+".join(map(str, settings["decoding"]["steps"]))
    assert line == f"forward passes an image: {means} on average, of at most {most}"
    assert run(*words, tmp_path / "usual", "--steps", "auto") == 0
    assert run(*words, tmp_path / "plain", "--quality", 1) == 0
    assert capsys.readouterr().err.count("forward passes an image") == 1
    for name, quality in (("usual", AUTO_QUALITY), ("plain", 1.0)):
        settings = json.loads(Image.open(next((tmp_path / name).iterdir())).info["strait"])
        assert settings["decoding"]["quality"] == quality
        assert ("passes" in settings) == (quality < 1)


def test_revision_and_late_guidance_are_those_of_python(trained: Path, tmp_path: Path) -> None:
    model = StraIT.from_pretrained(trained)
    for number, (options, changes) in enumerate(
        (
            (("--revise", "remask", "--revise-share", 0.2), {"revise": "remask", "revise_share": 0.2}),
            (("--revise", "redraw", "--revise-passes", 2), {"revise": "redraw", "revise_passes": 2}),
            (
                ("--guidance-ramp", "power_cosine", "--guidance-start", 0.2, "--guidance", 2),
                {"guidance_ramp": "power_cosine", "guidance_start": 0.2, "guidance": 2.0},
            ),
        )
    ):
        folder = tmp_path / str(number)
        assert run("generate", "--model", trained, "--labels", "1", "--seed", 4, "--output", folder, *options) == 0
        (file,) = folder.iterdir()
        decoding = replace(model.default_decoding(), **changes)
        (picture,) = to_pictures(model.generate([1], seed=4, decoding=decoding))
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(picture))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--revise", "remask"), "decoding.revise_share: 0.0 must be above 0 and at most 1 (revise: remask)"),
        (("--revise-passes", 2), "decoding.revise_passes: 2 must be 0, because nothing is redrawn (revise: none)"),
        (("--revise", "regret"), "decoding.revise: 'regret' is not one of none, remask, confidence, redraw"),
        (("--steps", "auto", "--quality", 2), "decoding.quality: 2.0 must lie between 0 and 1"),
        (("--guidance-ramp", "late"), "decoding.guidance_ramp: 'late' is not one of constant, linear, power_cosine"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[Any, ...], message: str
) -> None:
    assert run("generate", "--model", trained, "--output", tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_grid_holds_a_row_a_label(trained: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    assert run("generate", "--model", trained, "--labels", "0,2", "--count", 4, "--grid", grid) == 0
    assert Image.open(grid).size == (4 * (32 + 2) + 2, 2 * (16 + 32 + 2) + 2)  # titles above the rows


def test_finished_parts_are_not_trained_again(trained: Path, photo_folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in trained.glob("*.safetensors")}
    assert run("train", "--data", photo_folder, "--model", trained) == 0
    assert {file.name: file.read_bytes() for file in trained.glob("*.safetensors")} == before


def test_describe_and_reconstruction_print_one_json_object(
    trained: Path, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("describe", "--model", trained, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["parameters"] == sum(part["parameters"] for part in described["parts"].values())
    assert run("evaluate", "reconstruction", "--model", trained, "--data", photo_folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 40
    assert report["tokens_counted_top"] == report["tokens_counted_bottom"]
    assert report["psnr"] > 8


def test_a_folder_without_classes_trains_an_unconditional_model(photo_folder: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for number, file in enumerate(sorted(photo_folder.rglob("*.jpg"))):
        (loose / f"{number}.jpg").write_bytes(file.read_bytes())
    model = tmp_path / "model"
    assert run("train", "--config", "smoke", "--data", loose, "--model", model, *SMALL) == 0
    assert not (model / "classes.txt").exists()
    assert run("generate", "--model", model, "--count", 2, "--output", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_damaged_images_are_named_skipped_and_counted(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data" / "things"
    data.mkdir(parents=True)
    for number, file in enumerate(sorted(photo_folder.rglob("*.jpg"))[:8]):
        (data / f"{number}.jpg").write_bytes(file.read_bytes())
    (data / "cut.jpg").write_bytes((data / "0.jpg").read_bytes()[:200])
    (data / "words.png").write_text("these are words")
    command = ("train", "tokenizer", "--config", "smoke", "--data", tmp_path / "data", *SMALL)
    assert run(*command, "--model", tmp_path / "model") == 0
    messages = capsys.readouterr().err
    assert messages.count("cut.jpg") == 1
    assert messages.count("words.png") == 1
    assert "2 unreadable images were skipped" in messages
    for file in data.glob("?.jpg"):
        file.write_bytes(b"gone")
    assert run(*command, "--model", tmp_path / "other") == 2
    assert "none of the 10 images can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paint"], "no verb 'paint'"),
        (["generate"], "--output"),
        (["generate", "--output", "out", "--count", "0"], "--count"),
        (["generate", "--output", "out", "--model", "nowhere"], "nowhere"),
        (["train", "--config", "smoke", "--data", "nowhere", "--model", "m"], "nowhere does not exist"),
        (["train", "--config", "smok", "--data", ".", "--model", "m"], "smoke"),
        (["train", "--config", "smoke", "--data", ".", "--model", "m", "--top.layerz", "3"], "--top.layerz"),
        (["train", "--config", "smoke", "--data", ".", "--model", "m", "--top.layers", "many"], "top.layers"),
        (["train", "--config", "smoke", "--data", ".", "--model", "m", "--top.heads", "7"], "heads"),
        (["train", "--config", "smoke", "--data", ".", "--model", "m", "--image_size", "30"], "image_size: 30"),
        (["train", "middle", "--config", "smoke", "--data", ".", "--model", "m"], "PART: 'middle'"),
        (["train", "--data", ".", "--model", "m"], "--config"),
        (["describe", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["describe", "--config", "smoke", "--classes", "-1"], "--classes: -1 must not be negative"),
    ],
)
def test_errors_are_one_line_that_names_the_cause(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_label_that_no_class_has_lists_the_nearest(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = (trained / "classes.txt").read_text().splitlines()[0]
    assert run("generate", "--model", trained, "--labels", name[:-1] + "x", "--output", tmp_path / "out") == 2
    assert name in capsys.readouterr().err


def test_the_classes_are_listed_as_labels_that_find_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (trained / "classes.txt").read_text().splitlines()
    capsys.readouterr()
    assert run("generate", "--list", "--model", trained) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name in lines] == names
    classes = StraIT.from_pretrained(trained).classes
    assert [classes.find(label) for label, _ in lines] == list(range(len(names)))
    assert run("generate", "--list", "--model", trained, "--grid", tmp_path / "g.png") == 2
    assert "--list: it generates no images" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_training_says_once_that_classes_are_called_by_numbers(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in zip(("1", "2", "3", "10"), sorted(photo_folder.iterdir()), strict=True):
        shutil.copytree(folder, tmp_path / "data" / name)
    words = ("train", "--config", "smoke", "--data", tmp_path / "data", "--model", tmp_path / "model", *SMALL)
    assert run(*words, "--stop-after", "0") == 0
    messages = capsys.readouterr().err
    assert messages.count("class names are numbers: label 1 means the class with this name; #1 means class") == 1


def test_a_missing_part_says_which_command_makes_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "classes.txt", "tokenizer.safetensors", "top.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    assert run("generate", "--model", tmp_path, "--labels", "0", "--output", tmp_path / "out") == 2
    assert "strait train bottom" in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    assert run("sweep", "--model", tmp_path, "--data", tmp_path, "--output", tmp_path / "out") == 2
    assert "strait train bottom" in capsys.readouterr().err
