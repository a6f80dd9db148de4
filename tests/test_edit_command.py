"""`strait edit` as a person meets it: files in, files out, errors of one line; the process and its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import make_photograph
from strait.cli import main
from strait.commands.class_names_in_files import class_slugs
from strait.data.classes import ClassNames
from strait.editing.edits import Edit, transfer_picture
from strait.editing.placing import resized
from strait.editing.process import frames, random_grids, redrawings
from strait.editing.process_pictures import animation, heat_map
from strait.model.config import ModelConfig
from strait.model.strait import StraIT, random_model
from strait.pictures.as_images import as_images
from strait.pictures.images import to_images, to_pictures
from strait.pictures.reading import read_picture
from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig
from strait.types import Canvas, Condition, Tokens

QUICK = ("--steps", "3+2")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    make_photograph("disc", 3).resize((90, 70)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    pixels = np.zeros((70, 90), np.uint8)
    pixels[20:50, 30:68] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_infill_writes_each_result_and_keeps_the_rest(photo: Path, mask: Path, tmp_path: Path) -> None:
    words = ("edit", "infill", photo, "--mask", mask, "--label", "lemon", "--seed", 7, *QUICK)
    assert run(*words, "--count", 2, "--output", tmp_path / "out") == 0
    names = [f"photo-infill-seed7-000{index}.png" for index in range(2)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    kept = pixels_of(mask) == 0
    results = [pixels_of(tmp_path / "out" / name) for name in names]
    for result in results:
        assert np.array_equal(result[kept], pixels_of(photo)[kept])
    assert not np.array_equal(results[0], results[1])
    settings = json.loads(Image.open(tmp_path / "out" / names[1]).info["strait"])
    assert (settings["edit"], settings["seed"], settings["index"], settings["label"]) == ("infill", 7, 1, "lemon")
    assert (settings["strength"], settings["margin"], settings["composite"]) == (1.0, 0, True)
    assert run(*words, "--box", "30,20,68,50", "--output", tmp_path / "box") == 2
    words = ("edit", "infill", photo, "--box", "30,20,68,50", "--label", "lemon", "--seed", 7, *QUICK)
    assert run(*words, "--output", tmp_path / "box") == 0
    assert (tmp_path / "box" / names[0]).read_bytes() == (tmp_path / "out" / names[0]).read_bytes()


def test_every_setting_acts(photo: Path, mask: Path, tmp_path: Path) -> None:
    for path in (photo, mask):  # larger than the model's images: how much of it is seen is a choice
        with Image.open(path) as picture:
            picture.resize((180, 140), Image.Resampling.NEAREST).save(path)
    common = ("edit", "infill", photo, "--mask", mask, "--output")
    changes = (
        *(("--strength", 0.3), ("--margin", 9), ("--context", 1.0), ("--feather", 9), ("--no-composite",)),
        *(("--cover", 0), ("--seam", 6)),
        *(("--steps", "2+1"), ("--temperature", 0), ("--guidance", 20), ("--schedule", "linear"), ("--label", 20)),
    )
    usual = {"--label": 3, "--steps": "6+3"}
    name = "photo-infill-seed0-0000.png"
    assert run(*common, tmp_path / "plain", *(word for option in usual.items() for word in option)) == 0
    plain = pixels_of(tmp_path / "plain" / name)
    idle = []
    for number, change in enumerate(changes):
        others = (word for option in usual.items() if option[0] != change[0] for word in option)
        assert run(*common, tmp_path / str(number), *others, *change) == 0
        if np.array_equal(pixels_of(tmp_path / str(number) / name), plain):
            idle.append(change)
    assert idle == []


def test_a_mask_that_leaves_nothing_known_is_said(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(photo) as picture:
        width, height = picture.size
    words = ("edit", "infill", photo, *QUICK, "--box")
    assert run(*words, f"0,0,{width},{height}", "--output", tmp_path / "all") == 0
    assert "no top token stays known" in capsys.readouterr().err
    assert run(*words, "0,0,10,10", "--output", tmp_path / "part") == 0
    assert "no top token" not in capsys.readouterr().err


def test_relabel_is_infilling_under_the_new_class(photo: Path, mask: Path, tmp_path: Path) -> None:
    words = (photo, "--mask", mask, "--label", "daisy", *QUICK, "--output", tmp_path)
    assert run("edit", "infill", *words) == 0
    assert run("edit", "relabel", *words) == 0
    infilled, relabelled = (pixels_of(tmp_path / f"photo-{action}-seed0-0000.png") for action in ("infill", "relabel"))
    assert np.array_equal(infilled, relabelled)


def test_extend_and_transfer_write_their_settings(photo: Path, tmp_path: Path) -> None:
    assert run("edit", "extend", photo, "--left", 1, "--up", 2, *QUICK, "--output", tmp_path) == 0
    extended = Image.open(tmp_path / "photo-extend-seed0-0000.png")
    assert extended.size == (90 + 9, 70 + 18)  # a top token has 8.75 pixels of the picture
    assert np.array_equal(np.asarray(extended)[18:, 9:], pixels_of(photo))
    assert json.loads(extended.info["strait"])["left"] == 1
    words = ("edit", "transfer", photo, "--label", "lemon", *QUICK, "--output", tmp_path)
    assert run(*words, "--keep", 0.25, "--choose", "confidence") == 0
    moved = Image.open(tmp_path / "photo-transfer-seed0-0000.png")
    assert moved.size == (70, 70)
    settings = json.loads(moved.info["strait"])
    assert (settings["keep"], settings["choose"], settings["keep_bottom"]) == (0.25, "confidence", False)


def test_an_empty_mask_is_said(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (90, 70)).save(tmp_path / "black.png")
    assert run("edit", "infill", photo, "--mask", tmp_path / "black.png", "--output", tmp_path / "out") == 0
    assert "no pixel is white, so nothing is filled and the picture is returned unchanged" in capsys.readouterr().err
    (result,) = (tmp_path / "out").glob("*.png")
    assert np.array_equal(pixels_of(result), pixels_of(photo))
    # A transfer draws the bottom anew even where every top token stays.
    words = ("edit", "transfer", photo, "--label", 3, "--mask", tmp_path / "black.png", "--output", tmp_path)
    assert run(*words) == 0
    assert "so all top tokens are kept and the bottom tokens are redrawn" in capsys.readouterr().err
    assert run(*words, "--keep-bottom", "--overwrite") == 0
    assert "so nothing is redrawn and the reconstruction is returned" in capsys.readouterr().err
    model, square = StraIT.from_pretrained(), Image.open(photo).convert("RGB").crop((10, 0, 80, 70))
    again = model.decode(model.encode(to_images(square.resize((128, 128), Image.Resampling.LANCZOS))))
    assert np.array_equal(pixels_of(tmp_path / "photo-transfer-seed0-0000.png"), resized(again, 70, 70))


def test_the_first_picture_of_several_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [make_photograph("disc", number).resize((128, 128)) for number in range(3)]
    pages[0].save(tmp_path / "many.tif", save_all=True, append_images=pages[1:])
    assert run("edit", "extend", tmp_path / "many.tif", "--left", 1, *QUICK, "--output", tmp_path) == 0
    assert "many.tif has 3 pictures; only the first is used" in capsys.readouterr().err
    assert np.array_equal(pixels_of(tmp_path / "many-extend-seed0-0000.png")[:, 16:], np.asarray(pages[0]))
    words = ("edit", "infill", tmp_path / "many.tif", "--mask", tmp_path / "many.tif", *QUICK, "--output", tmp_path)
    assert run(*words) == 0
    assert capsys.readouterr().err.count("many.tif has 3 pictures; only the first is used") == 2


def test_settings_of_any_size_act_as_the_largest_that_matters(photo: Path, mask: Path, tmp_path: Path) -> None:
    name = "photo-infill-seed0-0000.png"
    for option, huge, largest in (
        ("--context", "1e308", 4),
        ("--margin", 10**20, 128),
        ("--feather", "100000000", 70),
    ):
        words = ("edit", "infill", photo, "--mask", mask, "--label", 3, *QUICK, option)
        assert run(*words, huge, "--output", tmp_path / f"huge{option}") == 0
        assert run(*words, largest, "--output", tmp_path / f"most{option}") == 0
        pixels = pixels_of(tmp_path / f"huge{option}" / name)
        assert np.array_equal(pixels, pixels_of(tmp_path / f"most{option}" / name)), option


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("paint",), "edit: there is no action 'paint'"),
        (("infill", "PHOTO"), "--mask: give the part to fill"),
        (("infill", "PHOTO", "--box", "1,2"), "--box: '1,2' must be left,top,right,bottom"),
        (("infill", "PHOTO", "--mask", "nothing.png"), "--mask: there is no file nothing.png"),
        (("infill", "nothing.png", "--box", "0,0,1,1"), "picture: there is no file nothing.png"),
        (("infill", "PHOTO", "--box", "0,0,9,9", "--strength", "0"), "strength: 0.0 must be above 0"),
        (("infill", "PHOTO", "--box", "0,0,9,9", "--count", "0"), "count: 0 must be at least 1"),
        (("infill", "PHOTO", "--box", "0,0,9,9", "--label", "lemn"), "label: no class is called 'lemn'"),
        (("infill", "PHOTO", "--box", "0,0,9,9", "--steps", "18"), "--steps: 18 must give 2 number(s)"),
        (("relabel", "PHOTO", "--box", "0,0,9,9"), "--label: relabel needs the new class"),
        (("transfer", "PHOTO"), "--label: transfer needs the new class"),
        (("transfer", "PHOTO", "--label", "3", "--keep", "2"), "keep: 2.0 must lie between 0 and 1"),
        (("transfer", "PHOTO", "--label", "3", "--keep", "1", "--box", "0,0,9,9"), "--keep: --box already gives"),
        (
            ("transfer", "PHOTO", "--label", "3", "--choose", "confidence", "--box", "0,0,9,9"),
            "--choose: --box already gives the region",
        ),
        (("extend", "PHOTO"), "extend: give a number of top tokens"),
        (("extend", "PHOTO", "--left", "-2"), "left: -2 must not be negative"),
        (("upsample", "PHOTO"), "upsample: this model has no upsampler"),
        (("process", "PHOTO"), "--mask: give the part to infill"),
        (("process", "--box", "0,0,9,9"), "--box: there is no picture"),
        (("process", "--strength", "0.5"), "need a picture to infill"),
        (("extend", "PHOTO", "--strength", "0.5"), "strength"),
    ],
)
def test_errors_are_one_line(
    words: tuple[str, ...], message: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [str(photo) if word == "PHOTO" else word for word in words]
    assert run("edit", *named, "--output", tmp_path / "out") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_an_edit_writes_over_nothing(
    photo: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("edit", "infill", photo, "--mask", mask, *QUICK, "--output", tmp_path / "out")
    assert run(*words) == 0
    (path,) = (tmp_path / "out").iterdir()
    before = path.read_bytes()
    assert run(*words, "--strength", 0.4) == 2
    assert "exists and differs" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert run(*words, "--strength", 0.4, "--overwrite") == 0
    assert path.read_bytes() != before


# The process


@pytest.fixture(scope="module")
def model() -> StraIT:
    return StraIT.from_pretrained()


@pytest.fixture(scope="module")
def small() -> StraIT:
    """Random weights, 4x4 top and 8x8 bottom tokens: asking for each of them again is quick."""
    tokenizer = TokenizerConfig(channels=8, multipliers=(1, 1, 2), res_blocks=1, codebook_size=64, code_dim=4)
    transformer = TransformerConfig(layers=1, width=16, mlp=32, heads=2)
    return random_model(ModelConfig(16, tokenizer, transformer, transformer), ["disc", "lemon", "square", "stripes"])


@pytest.fixture
def small_folder(small: StraIT, tmp_path: Path) -> Path:
    small.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def test_frames_are_the_top_on_a_fixed_random_bottom_then_the_bottom(model: StraIT) -> None:
    labels, decoding = torch.tensor([3]), replace(model.decoding, steps=(6, 3))
    steps = list(model.decoding_steps(labels, seed=2, decoding=decoding))
    sequence = list(frames(model, steps, seed=2))
    assert [(frame.level, frame.index) for frame in sequence] == [(step.level, step.index) for step in steps]
    stand_in = random_grids(model, 1, 2)[1]
    assert 0 <= int(stand_in.min()) < int(stand_in.max()) < 2048
    for frame, step in zip(sequence, steps, strict=True):
        if step.level == "top":
            expected = model.decode(Tokens((step.drawn.view(1, 8, 8), stand_in)))
            assert torch.equal(frame.image, expected)
    assert torch.equal(sequence[-1].image, model.generate([3], seed=2, decoding=decoding))
    assert torch.equal(sequence[4].confidence.flatten(), steps[4].confidence.exp().flatten())


def test_the_stand_in_for_the_bottom_is_random(model: StraIT) -> None:
    """A ramp, or any other pattern, would draw itself into Figure 5: neighbours must be independent."""
    top, bottom = random_grids(model, 3, seed=5)
    assert (top.shape, bottom.shape) == ((3, 8, 8), (3, 16, 16))
    assert torch.equal(bottom[0], bottom[1]), "it is the same for every image"
    assert not torch.equal(bottom[0], random_grids(model, 1, seed=6)[1][0]), "another seed, another one"
    drawn = torch.cat([random_grids(model, 1, seed)[1][0].flatten() for seed in range(40)]).double()
    size = model.config.level_codebook_sizes[1]
    # Uniform over the codes: mean and deviation within four standard errors, neither steps nor order between them.
    assert abs(drawn.mean() / size - 0.5) < 4 / (12 * len(drawn)) ** 0.5
    assert abs(drawn.std() / size - 12**-0.5) < 0.02
    steps = (bottom[0].flatten()[1:] - bottom[0].flatten()[:-1]).tolist()
    assert len(set(steps)) > 50
    pairs = torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1]
    assert abs(pairs) < 4 / len(drawn) ** 0.5


def test_each_token_is_counted_at_the_step_that_kept_it(small: StraIT) -> None:
    model = small
    labels = torch.tensor([3])
    masked = torch.zeros(1, 4, 4, dtype=torch.bool)
    masked[0, 1:] = True
    grids = random_grids(model, 1, 0)
    canvases = [Canvas.known(grids[0], masked), Canvas.blank(1, (8, 8))]
    decoding = replace(model.decoding, steps=(12, 6))
    steps = list(model.decoding_steps(labels, decoding=decoding, canvases=canvases))
    for level, its, start in zip(
        redrawings(model, canvases, steps, labels, 1.0), (steps[:12], steps[12:]), canvases, strict=True
    ):
        for place in range(start.masked.shape[1]):
            kept = [step.index for step in its if not step.canvas.masked[0, place]]
            kept_at = kept[0] if start.masked[0, place] else -1
            assert int(level.kept_at.flatten()[place]) == kept_at
            sure = 1.0 if kept_at < 0 else float(its[kept_at].confidence[0, place].exp())
            assert float(level.confidence.flatten()[place]) == pytest.approx(sure)
        assert ((level.change >= 0) & (level.change <= 1)).all()


def test_a_wrong_token_is_one_that_would_change(model: StraIT) -> None:
    """How likely it is to change: one minus its own chance, given all others. Two draws: one minus chances squared."""
    labels = torch.tensor([3])
    steps = list(takewhile(lambda step: step.level == "top", model.decoding_steps(labels, seed=1)))
    (top,) = redrawings(model, [Canvas.blank(1, (8, 8))], steps, labels)
    tokens = steps[-1].canvas.as_grid()
    canvas = Canvas.known(tokens, torch.arange(64).view(1, 8, 8) == 5)
    with torch.no_grad():
        chance = model.levels()[0].bind(Condition(labels))(canvas)[0, 5].softmax(-1)
    assert float(top.change.flatten()[5]) == pytest.approx(1 - float(chance[tokens.flatten()[5]]), abs=1e-5)
    assert float(top.expected.flatten()[5]) == pytest.approx(1 - float((chance**2).sum()), abs=1e-5)


def test_heat_maps_grow_lighter() -> None:
    values = torch.linspace(0, 1, 16).view(1, 4, 4)
    picture = heat_map(values, 64)
    assert picture.shape == (1, 3, 64, 64)
    assert picture.min() >= -1
    assert picture.max() <= 1
    light = picture.mean(1)[0, ::16, ::16].flatten()
    assert (light.diff() > 0).all()
    assert torch.equal(picture[0, :, :16, :16], picture[0, :, :1, :1].expand(3, 16, 16))


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_the_process_is_written_with_a_frame_a_step(
    kind: str, photo: Path, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("edit", "process", photo, "--box", "30,20,70,50", "--format", kind, "--output", tmp_path, "--json")
    assert run(*words, "--steps", "5+3", "--label", 3, "--cover", 0, "--model", small_folder) == 0
    report = json.loads(capsys.readouterr().out)
    name = "photo-process-seed0-0000"
    assert [Path(path).name for path in report["files"]] == [
        f"{name}-strip.png",
        f"{name}.{kind}",
        f"{name}-redrawn.png",
    ]
    moving = Image.open(tmp_path / f"{name}.{kind}")
    assert getattr(moving, "n_frames", 1) == 8
    assert moving.size == (2 * 192, 192)
    assert Image.open(tmp_path / f"{name}-strip.png").size == (8 * 18 + 2, 2 * 34 + 2)
    counts = {
        level: sum(row["tokens"] for row in report["redrawing"] if row["level"] == level)
        for level in ("top", "bottom")
    }
    assert counts == {"top": 16, "bottom": 64}


def test_a_process_has_as_many_frames_as_steps_were_taken(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One top token and four bottom ones are unknown: a step and four, whatever was asked for."""
    # The window is the picture's left 70 pixels; a top token of it has 8.75 of them.
    words = ("edit", "process", photo, "--box", "20,20,26,26", "--output", tmp_path, "--json", "--context", 8)
    assert run(*words, "--steps", "12+6", "--guidance", 0, "--label", 3) == 0
    rows = json.loads(capsys.readouterr().out)["redrawing"]
    assert [(row["level"], row["step"], row["tokens"]) for row in rows] == [
        *(("top", -1, 63), ("top", 0, 1)),
        *(("bottom", -1, 252), *(("bottom", step, 1) for step in range(4))),
    ]
    assert getattr(Image.open(tmp_path / "photo-process-seed0-0000.gif"), "n_frames", 1) == 5
    assert Image.open(tmp_path / "photo-process-seed0-0000-strip.png").size == (5 * 130 + 2, 2 * 146 + 2)


def test_frames_know_how_many_steps_their_level_takes(model: StraIT) -> None:
    masked = torch.zeros(1, 16, 16, dtype=torch.bool)
    masked[0, 0, :3] = True
    top, bottom = random_grids(model, 1, 0)
    canvases = [Canvas.known(top), Canvas.known(bottom, masked)]
    sequence = list(frames(model, model.decoding_steps(torch.tensor([3]), canvases=canvases)))
    assert [(frame.level, frame.index, frame.num_steps) for frame in sequence] == [
        ("top", 0, 1),
        *(("bottom", index, 3) for index in range(3)),
    ]


def test_the_process_of_generation_needs_no_picture(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("edit", "process", "--label", "lemon", "--model", small_folder, "--output", tmp_path / "out")
    assert run(*words, *QUICK) == 0
    out = capsys.readouterr().out
    assert "kept at step" in out
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_animations_of_other_kinds_are_refused(small: StraIT) -> None:
    sequence = list(frames(small, small.decoding_steps(torch.tensor([3]))))
    with pytest.raises(ValueError, match=r"format: 'mp4' is not one of gif, webp"):
        animation(sequence, 64, "mp4")


def test_several_classes_of_a_transfer_stand_on_a_sheet(photo: Path, tmp_path: Path) -> None:
    """Figure 6: the source, then each class; with the bottom predicted anew above, with the old bottom below."""
    words = ["edit", "transfer", str(photo), *QUICK]
    assert main([*words, "--label", "lemon,7", "--count", "2", "--output", str(tmp_path)]) == 0
    model = StraIT.from_pretrained()
    lemon, other_label = model.classes.find("lemon"), 7
    names = ["".join(c if c.isalnum() else "-" for c in model.classes[label]) for label in (lemon, other_label)]
    results = [tmp_path / f"photo-{name}-transfer-seed0-{index:04d}.png" for name in names for index in (0, 1)]
    sheet = Image.open(tmp_path / "photo-transfer-sheet-seed0.png")
    assert {path.name for path in tmp_path.glob("photo-*.png")} == {path.name for path in results} | {
        "photo-transfer-sheet-seed0.png"
    }
    side = model.config.image_size
    assert sheet.size == (3 * (side + 2) + 2, 2 * (side + 2 + 16) + 2)

    def cell(row: int, column: int) -> np.ndarray:
        left, top = 2 + column * (side + 2), 2 + row * (side + 18) + 16
        return np.asarray(sheet.crop((left, top, left + side, top + side)))

    assert np.array_equal(cell(0, 0), cell(1, 0))
    for column, label in ((1, lemon), (2, other_label)):
        for row, keep_bottom in ((0, False), (1, True)):
            picture = read_picture(photo)
            edit = Edit(model, label, 1, 0, replace(model.decoding, steps=(3, 2)))
            (alone,) = transfer_picture(edit, picture, keep_bottom=keep_bottom)
            expected = to_pictures(as_images([alone], side))[0]
            assert np.array_equal(cell(row, column), np.asarray(expected))
        assert not np.array_equal(cell(0, column), cell(1, column))
        # One label alone gives the same first result.
        alone = tmp_path / f"alone{column}"
        assert main([*words, "--label", str(label), "--output", str(alone)]) == 0
        assert np.array_equal(pixels_of(alone / "photo-transfer-seed0-0000.png"), pixels_of(results[2 * (column - 1)]))


def test_an_infilling_under_two_classes_stands_on_a_sheet(photo: Path, tmp_path: Path) -> None:
    """Figure 10: a row a class, of the picture, what is known of it, and the results."""
    words = ["edit", "infill", str(photo), "--box", "10,10,50,60", "--label", "3,7", "--count", "2", *QUICK]
    assert main([*words, "--output", str(tmp_path)]) == 0
    model = StraIT.from_pretrained()
    sheet, side = Image.open(tmp_path / "photo-infill-sheet-seed0.png"), model.config.image_size
    assert sheet.size == (4 * (side + 2) + 2, 2 * (side + 2 + 16) + 2)

    def cell(row: int, column: int) -> np.ndarray:
        left, top = 2 + column * (side + 2), 2 + row * (side + 18) + 16
        return np.asarray(sheet.crop((left, top, left + side, top + side)))

    original = np.asarray(read_picture(photo).rgb())
    hidden = original.copy()
    hidden[10:60, 10:50] = 128
    for row, label in enumerate((3, 7)):
        alone = tmp_path / f"alone{label}"
        words = ["edit", "infill", str(photo), "--box", "10,10,50,60", "--label", str(label), "--count", "2", *QUICK]
        assert main([*words, "--output", str(alone)]) == 0
        name = "".join(letter if letter.isalnum() else "-" for letter in model.classes[label])
        results = [pixels_of(alone / f"photo-infill-seed0-{index:04d}.png") for index in (0, 1)]
        for index, result in enumerate(results):
            assert np.array_equal(pixels_of(tmp_path / f"photo-{name}-infill-seed0-{index:04d}.png"), result)
        for column, expected in enumerate((original, hidden, *results)):
            assert np.array_equal(cell(row, column), np.asarray(to_pictures(as_images([expected], side))[0]))
    assert not np.array_equal(cell(0, 2), cell(1, 2))


ALIKE = ["n02012849 crane", "n03126707 crane", "lemon", "crane 1", "Lemon!", "犬", "猫", "5"]


def test_classes_have_different_names_in_files() -> None:
    slugs = class_slugs(ClassNames(ALIKE))
    assert slugs == ["crane-0", "crane-1", "lemon-2", "crane-1-3", "lemon-4", "5", "6", "5-7"]
    assert class_slugs(ClassNames(["red apple", "sea"])) == ["red-apple", "sea"]


@given(st.lists(st.text("ab-1 2", max_size=4), min_size=1, max_size=9, unique=True))
def test_no_two_classes_share_a_name(names: list[str]) -> None:
    classes = [f"n{index:08d} {name}" if name.strip() else f"n{index:08d}" for index, name in enumerate(names)]
    slugs = class_slugs(ClassNames(classes))
    assert len(set(slugs)) == len(slugs)
    assert all(slugs)


@pytest.fixture
def alike(small: StraIT, tmp_path: Path) -> Path:
    random_model(small.config, ALIKE).save_pretrained(tmp_path / "alike")
    return tmp_path / "alike"


@pytest.mark.parametrize("action", [["infill", "--box", "10,10,50,60"], ["transfer", "--keep", "0.5"]])
@pytest.mark.parametrize("stem", ["photo", "x" * 200, "犬" * 70])
def test_no_class_is_lost_from_files_or_the_sheet(photo: Path, alike: Path, action: list[str], stem: str) -> None:
    source, output = photo.with_name(f"{stem}.png"), alike.parent / "out"
    photo.rename(source)
    words = ["edit", action[0], source, *action[1:], "--model", alike, "--output", output, *QUICK]
    assert run(*words, "--label", "n02012849,n03126707,lemon") == 0
    files = sorted(output.iterdir())
    (sheet,) = [file for file in files if "-sheet-" in file.name]
    assert len(files) == 4
    labels = [json.loads(Image.open(file).info["strait"])["label"] for file in files if file != sheet]
    assert sorted(labels) == sorted(ALIKE[:3])
    if action[0] == "infill":
        assert Image.open(sheet).size[1] == 3 * (16 + 2 + 16) + 2, "a row for each class, titles alike or not"


def test_generated_classes_are_not_written_over_each_other(alike: Path) -> None:
    output = alike.parent / "out"
    assert run("generate", "--model", alike, "--labels", "#1,#3,#5,#7", "--output", output, *QUICK) == 0
    assert len(list(output.iterdir())) == 4
