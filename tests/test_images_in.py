"""A picture is the same picture however it is handed over, and what is none says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from strait.editing.edits import Edit, extend_picture, infill_picture, transfer_picture
from strait.editing.extension import Sides
from strait.model.strait import StraIT, random_model
from strait.pictures.as_images import as_images, as_mask, as_picture, pixels_of
from strait.pictures.images import to_pictures
from strait.pictures.reading import PictureError, to_square
from test_model_folder import CLASSES, CONFIG

SIZE = 16


@pytest.fixture(scope="module")
def model() -> StraIT:
    return random_model(CONFIG, CLASSES, seed=1)


@pytest.fixture(scope="module")
def square() -> np.ndarray:
    """A photograph of the model's size, uint8."""
    return to_square(make_photograph("disc", 3), SIZE)


def every_way(pixels: np.ndarray) -> dict[str, object]:
    """The same picture as all that may be handed over."""
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return {
        "PIL": Image.fromarray(pixels),
        "PIL with a fourth channel": Image.fromarray(pixels).convert("RGBA"),
        "a list": [Image.fromarray(pixels)],
        "uint8": pixels,
        "uint8 batch": pixels[None],
        "floats": pixels / 255,
        "floats of 32 bits in a batch": (pixels[None] / 255).astype(np.float32),
        "uint8 tensor": tensor,
        "Images": tensor[None].float() / 127.5 - 1,
        "one of them": tensor.float() / 127.5 - 1,
        "one of 64 bits": tensor.double() / 127.5 - 1,
        "a list of tensors": [tensor],
    }


def test_every_way_gives_the_same_images_and_tokens(model: StraIT, square: np.ndarray) -> None:
    expected = torch.from_numpy(square.copy()).permute(2, 0, 1)[None].double() / 255 * 2 - 1
    tokens = model.tokenizer.encode(expected.float()).levels
    for name, picture in every_way(square).items():
        images = as_images(picture, SIZE)  # type: ignore[arg-type]
        assert (images.dtype, images.shape) == (torch.float32, (1, 3, SIZE, SIZE)), name
        torch.testing.assert_close(images.double(), expected, rtol=0, atol=1e-6, msg=name)
        for grid, reference in zip(model.encode(picture).levels, tokens, strict=True):  # type: ignore[arg-type]
            assert torch.equal(grid, reference), name


def test_pictures_are_brought_to_the_models_size_and_tensors_are_not(model: StraIT) -> None:
    photograph = make_photograph("stripes", 1)
    square = to_square(photograph, SIZE)
    images = as_images([photograph, np.asarray(photograph), np.asarray(photograph) / 255], SIZE)
    for image in to_pictures(images):
        assert np.array_equal(np.asarray(image), square)
    assert as_images(torch.zeros(2, 3, 32, 48), SIZE).shape == (2, 3, 32, 48)
    assert [grid.shape for grid in model.encode(torch.zeros(2, 3, 32, 48)).levels] == [(2, 8, 12), (2, 16, 24)]


def test_what_comes_out_goes_in_again(square: np.ndarray) -> None:
    (picture,) = to_pictures(as_images(square, SIZE))
    assert np.array_equal(np.asarray(picture), square)
    for form in (Image.fromarray(square), square, square / 255, as_images(square, SIZE)):
        assert np.array_equal(pixels_of(form), square)


def test_transparency_and_grey() -> None:
    clear = np.zeros((20, 20, 4), np.uint8)
    assert bool((as_images(clear, SIZE) == 1).all())
    assert np.array_equal(pixels_of(clear), clear)
    grey = np.full((20, 20), 51, np.uint8)
    torch.testing.assert_close(as_images(grey, SIZE), torch.full((1, 3, SIZE, SIZE), -0.6))
    torch.testing.assert_close(as_images(grey[..., None] / 255, SIZE), torch.full((1, 3, SIZE, SIZE), -0.6))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((3, 16, 16)), "an array of shape (3, 16, 16) is not a picture; it must be [height, width, 3]"),
        (np.zeros((0, 16, 3)), "an array of shape (0, 16, 3) is not a picture"),
        (np.zeros((16, 16, 3), np.int64), "an array of int64 is not a picture; it must be uint8, or floats in [0, 1]"),
        (np.full((16, 16, 3), 255.0), "must lie in [0, 1]; this one ranges from 255 to 255"),
        (np.full((16, 16, 3), np.nan), "must lie in [0, 1]; this one ranges from nan to nan"),
        (torch.zeros(1, 16, 16, 3), "a tensor must be [batch, 3, height, width], not [1, 16, 16, 3]"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), "must hold floats in [-1, 1] or uint8, not torch.int64"),
        (torch.full((1, 3, 16, 16), 128.0), "must lie in [-1, 1]; this one ranges from 128 to 128"),
        ([], "none were given"),
        (["photo.jpg"], "str is not a picture"),
        ([torch.zeros(3, 32, 16), np.zeros((8, 8, 3))], "must have the same size, not 16x16 and 32x16"),
    ],
)
def test_what_is_no_picture_says_so(model: StraIT, picture: object, message: str) -> None:
    with pytest.raises(ValueError, match="images: ") as caught:
        model.encode(picture)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_edit_takes_a_picture_and_a_mask_in_any_form(model: StraIT, tmp_path: Path) -> None:
    photograph = make_photograph("square", 2)
    pixels = np.asarray(photograph)
    mask = np.zeros(pixels.shape[:2], bool)
    mask[5:20, 8:25] = True
    photograph.save(tmp_path / "photo.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    edit = Edit(model, label=1)
    (expected,) = infill_picture(edit, as_picture(tmp_path / "photo.png"), mask)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    pictures = [tmp_path / "photo.png", str(tmp_path / "photo.png"), photograph, pixels, pixels / 255, tensor]
    white = mask.astype(np.uint8) * 255
    masks = [
        tmp_path / "mask.png",
        str(tmp_path / "mask.png"),
        Image.fromarray(white),
        white,
        mask,
        torch.tensor(mask),
    ]
    for picture, mask_form in zip(pictures, masks, strict=True):
        (result,) = infill_picture(edit, picture, mask_form)
        assert np.array_equal(result, expected), type(picture)
    assert np.array_equal(expected[~mask], pixels[~mask])
    for form in (photograph, pixels):
        (result,) = transfer_picture(edit, form, region=Image.fromarray(white))
        assert result.shape == (min(photograph.size), min(photograph.size), 3)
        (result,) = extend_picture(edit, form, Sides(left=1))
        assert result.shape[1] > pixels.shape[1]


def test_a_mask_that_does_not_fit_says_so() -> None:
    with pytest.raises(PictureError, match=r"mask: its shape is \(3, 4\)"):
        as_mask(np.zeros((3, 4), bool), (4, 3))
    with pytest.raises(PictureError, match="must hold bools"):
        as_mask(np.zeros((3, 4)), (3, 4))
    with pytest.raises(PictureError, match=r"not float32; for floats say mask > 0\.5, for logits mask > 0"):
        as_mask(np.zeros((3, 4), np.float32), (3, 4))
    with pytest.raises(PictureError, match=r"its shape is \(2, 3, 4\)"):
        as_mask(np.zeros((2, 3, 4), bool), (3, 4))


def test_a_mask_may_have_dimensions_of_one_and_be_a_list() -> None:
    """As networks that segment give it, and libraries of diffusion take it."""
    mask = np.arange(12).reshape(3, 4) % 5 == 0
    for shape in ((1, 3, 4), (1, 1, 3, 4), (3, 4, 1), (1, 3, 4, 1)):
        assert np.array_equal(as_mask(mask.reshape(shape), (3, 4)), mask)
        assert np.array_equal(as_mask(torch.tensor(mask).reshape(shape), (3, 4)), mask)
    assert np.array_equal(as_mask(mask.tolist(), (3, 4)), mask)
    assert as_mask(np.ones((1, 1), bool), (1, 1)).shape == (1, 1)
