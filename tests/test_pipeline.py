"""The call of diffusers' pipelines gives what ``generate`` gives, in the form that was asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from strait import StraITPipeline
from strait.decoding.config import DecodingConfig
from strait.model.strait import StraIT, random_model
from strait.pictures.images import to_pictures
from strait.types import Tokens
from test_model_folder import CLASSES, CONFIG, SINGLE

STEPS = DecodingConfig(steps=(4, 3), temperature=(1.5, 2.5), guidance=0.2)


@pytest.fixture(scope="module")
def model() -> StraIT:
    return random_model(CONFIG, CLASSES, seed=1)


@pytest.fixture(scope="module")
def pipe(model: StraIT) -> StraITPipeline:
    return StraITPipeline(model)


def same(first: Any, second: Any) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_a_call_gives_what_generate_gives(model: StraIT, pipe: StraITPipeline) -> None:
    expected = model.generate(["teddy", 0], seed=7, decoding=STEPS)
    settings: dict[str, Any] = {"num_inference_steps": (4, 3), "guidance_scale": 0.2, "temperature": (1.5, 2.5)}
    images = pipe(["teddy", 0], generator=7, output_type="pt", **settings).images
    assert torch.equal(images, expected)
    assert torch.equal(pipe(["teddy", 0], generator=7, output_type="pt", batch_size=1, **settings).images, expected)
    pictures = pipe(class_labels=["teddy", 0], generator=7, **settings).images
    assert all(isinstance(picture, Image.Image) for picture in pictures)
    assert all(map(same, pictures, to_pictures(expected)))
    array = pipe(class_labels=["teddy", 0], generator=7, output_type="np", **settings).images
    assert (array.shape, array.dtype) == ((2, 16, 16, 3), np.float32)
    np.testing.assert_allclose(array, (expected.permute(0, 2, 3, 1).numpy() + 1) / 2, atol=1e-7)
    (alone,) = pipe(class_labels=["teddy", 0], generator=7, output_type="pt", return_dict=False, **settings)
    assert torch.equal(alone, expected)


def test_further_settings_have_their_names(model: StraIT, pipe: StraITPipeline) -> None:
    for settings in (
        {"quality": 0.6},
        {"revise": "redraw", "revise_passes": 3},
        {"guidance_ramp": "power_cosine", "guidance_start": 0.25},
    ):
        remaining: list[int] = []
        images = pipe(
            "teddy",
            (4, 3),
            1.0,
            generator=3,
            output_type="pt",
            callback_on_step_end=lambda pipe, step, left, values, remaining=remaining: remaining.append(left),
            **settings,
        ).images
        decoding = replace(model.default_decoding(), steps=(4, 3), guidance=1.0, **settings)
        assert torch.equal(images, model.generate(["teddy"], seed=3, decoding=decoding))
        assert remaining[0] == sum(decoding.passes) - 1
        assert remaining[-1] == 0 or decoding.quality < 1
    with pytest.raises(TypeError, match="regret"):
        pipe("teddy", regret=1)


def test_what_is_not_said_is_the_models_own(model: StraIT, pipe: StraITPipeline) -> None:
    assert torch.equal(pipe("teddy", generator=3, output_type="pt").images, model.generate(["teddy"], seed=3))
    assert torch.equal(
        pipe(generator=3, num_images_per_label=3, output_type="pt").images, model.generate(count=3, seed=3)
    )
    hot = replace(model.decoding, temperature=(9.0, 9.0))
    assert torch.equal(
        pipe(1, generator=3, temperature=9, output_type="pt").images, model.generate([1], seed=3, decoding=hot)
    )
    many = pipe(["teddy", 0], num_images_per_label=2, generator=3, output_type="pt").images
    assert torch.equal(many, model.generate(["teddy", "teddy", 0, 0], seed=3))


def test_a_generator_gives_the_seed_and_moves_on(pipe: StraITPipeline) -> None:
    def calls(generator: torch.Generator) -> list[Any]:
        return [pipe("teddy", generator=generator, output_type="pt").images for _ in range(2)]

    first, second = calls(torch.Generator().manual_seed(5)), calls(torch.Generator().manual_seed(5))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])


def test_with_a_generator_each_an_image_depends_on_its_own_alone(pipe: StraITPipeline) -> None:
    def images(*seeds: int) -> Any:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(["teddy"] * len(seeds), generator=generators, output_type="pt").images

    three, two = images(1, 2, 3), images(3, 1)
    assert torch.equal(three[[2, 0]], two)
    assert not torch.equal(three[0], three[1])

    def drawn(*seeds: int) -> Any:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(num_images_per_label=len(seeds), generator=generators, output_type="pt").images

    assert torch.equal(drawn(1, 2)[1:], drawn(2)), "its class, too"
    with pytest.raises(ValueError, match="generator: 2 generators were given for 3 images"):
        pipe([0, 1, 2], generator=[torch.Generator(), torch.Generator()])


def test_without_a_generator_every_call_is_another_and_torchs_own_stays(pipe: StraITPipeline) -> None:
    torch.manual_seed(7)
    draws = torch.rand(3)
    torch.manual_seed(7)
    first, second = (pipe("teddy", output_type="pt").images for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.rand(3), draws)


def test_a_callback_sees_every_step(model: StraIT, pipe: StraITPipeline) -> None:
    seen: list[tuple[int, int, str, int]] = []
    last: dict[str, torch.Tensor] = {}

    def look(pipeline: StraITPipeline, step: int, timestep: int, values: dict[str, Any]) -> None:
        assert pipeline is pipe
        assert values["tokens"].shape == values["masked"].shape
        level = values["decoding_step"].level
        seen.append((step, timestep, level, int(values["masked"].sum())))
        last[level] = values["tokens"]

    images = pipe(
        ["teddy"], num_inference_steps=(4, 3), generator=7, output_type="pt", callback_on_step_end=look
    ).images
    levels = ["top"] * 4 + ["bottom"] * 3
    assert [row[:3] for row in seen] == [(step, 6 - step, level) for step, level in enumerate(levels)]
    assert (seen[3][3], seen[6][3]) == (0, 0)
    assert all(before[3] > after[3] for before, after in pairwise(seen[:4]))
    grids = (last["top"], last["bottom"])
    assert torch.equal(model.decode(Tokens(grids)), images)


def test_a_callback_counts_the_steps_that_there_are(pipe: StraITPipeline) -> None:
    left: list[int] = []
    # Sixteen top tokens take no more than sixteen steps.
    pipe(
        0,
        num_inference_steps=(40, 2),
        callback_on_step_end=lambda pipeline, step, timestep, values: left.append(timestep),
    )
    assert left == list(range(17, -1, -1))


def test_an_error_in_a_callback_ends_the_call(pipe: StraITPipeline) -> None:
    taken: list[int] = []

    def stop(pipeline: StraITPipeline, step: int, timestep: int, values: dict[str, Any]) -> None:
        taken.append(step)
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(0, callback_on_step_end=stop)
    assert taken == [0, 1]


def test_a_model_of_one_level_takes_one_number() -> None:
    model = random_model(SINGLE, CLASSES)
    pipe = StraITPipeline(model)
    images = model.generate([0], seed=1, decoding=DecodingConfig(steps=(5,), temperature=(4.5,)))
    assert torch.equal(pipe(0, num_inference_steps=5, generator=1, output_type="pt").images, images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inference_steps": 24}, r"num_inference_steps: 24 must give 2 number\(s\), one a level, as 18\+6"),
        ({"num_inference_steps": (1, 2, 3)}, r"num_inference_steps: 1\+2\+3 must give 2 number"),
        ({"num_inference_steps": (0, 2)}, "decoding.steps"),
        ({"temperature": (1.0,)}, "decoding.temperature"),
        ({"guidance_scale": float("nan")}, "decoding.guidance"),
        ({"output_type": "latent"}, "output_type: 'latent' is not one of pil, np, pt"),
        ({"num_images_per_label": 0}, "num_images_per_label: 0 must be at least 1"),
        ({"class_labels": []}, "class_labels: the list is empty"),
        ({"class_labels": "nothing"}, "no class is called 'nothing'"),
        ({"generator": 2**64}, "does not fit into 64 bits"),
    ],
)
def test_what_cannot_be_says_so(pipe: StraITPipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(**settings)


def test_a_pipeline_is_loaded_as_a_model_is(tmp_path: Any, model: StraIT) -> None:
    model.save_pretrained(tmp_path)
    pipe = StraITPipeline.from_pretrained(tmp_path, pack=False)
    assert pipe.model.weights_hash() == model.weights_hash()


def test_labels_and_seeds_are_integers_of_any_library(pipe: StraITPipeline) -> None:
    images = pipe([0, 1], generator=3, output_type="pt").images
    for labels in (np.array([0, 1]), torch.tensor([0, 1]), [np.int64(0), torch.tensor(1)]):
        assert torch.equal(pipe(labels, generator=np.int64(3), output_type="pt").images, images)  # type: ignore[arg-type]
    image = pipe(1, generator=3, output_type="pt").images
    assert torch.equal(pipe(np.int64(1), generator=torch.tensor(3), output_type="pt").images, image)  # type: ignore[arg-type]
    for label in (1, "1", np.int64(1), torch.tensor(1)):
        assert torch.equal(pipe.model.generate(label, seed=3), image)  # type: ignore[arg-type]
    pair = pipe.model.generate(np.array([0, 1]), seed=np.int64(3))  # type: ignore[arg-type]
    assert torch.equal(pair, pipe.model.generate([0, 1], seed=3))
    assert torch.equal(pipe.model.generate(torch.tensor([0, 1]), seed=torch.tensor(3)), pair)  # type: ignore[arg-type]


def test_a_pipeline_moves_and_the_model_before_stays(model: StraIT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    loaded = StraITPipeline.from_pretrained(tmp_path / "model")  # packed, as for inference
    before, packed = loaded("teddy", generator=1, output_type="pt").images, loaded.model
    assert loaded.to("cpu") is loaded
    assert loaded.model is packed
    assert loaded.to(torch.bfloat16).model is not packed
    assert loaded.device == torch.device("cpu")
    assert loaded.model.trained == packed.trained
    assert list(loaded.model.classes) == CLASSES
    half = StraIT.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert torch.equal(loaded("teddy", generator=1, output_type="pt").images, half.generate(["teddy"], seed=1))
    assert torch.equal(StraITPipeline(packed)("teddy", generator=1, output_type="pt").images, before)
    with pytest.raises(ValueError, match="device: nowhere is not available here"):
        loaded.to("nowhere")


def test_a_list_of_seeds_has_one_for_each_image(model: StraIT, pipe: StraITPipeline) -> None:
    images = pipe(["teddy", "goldfish"], generator=[3, 8], output_type="pt").images
    for row, (label, seed) in enumerate((("teddy", 3), ("goldfish", 8))):
        assert torch.equal(images[row : row + 1], model.generate([label], seed=seed))
    mixed = pipe(["teddy", "goldfish"], generator=[3, torch.Generator().manual_seed(1)], output_type="pt").images
    assert torch.equal(mixed[0], images[0])
    with pytest.raises(ValueError, match="generator: 9223372036854775808 does not fit into 64 bits"):
        pipe(["teddy"], generator=[2**63])
