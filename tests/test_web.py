"""What stands behind the web page: settings there and back, images step by step, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from servers import serving
from strait.apps.jobs import settings_inside
from strait.images_out import png_bytes, to_pictures
from strait.model import StraIT

gr = pytest.importorskip("gradio", reason="the page needs pip install 'strait[app]'")

from strait.apps.web.controls import Controls, settings_in  # noqa: E402
from strait.apps.web.page import build_page  # noqa: E402
from strait.apps.web.studio import Studio, sheet, sureness_of  # noqa: E402


@pytest.fixture(scope="module")
def model() -> StraIT:
    return StraIT.from_pretrained()


@pytest.fixture(scope="module")
def controls(model: StraIT) -> Controls:
    made = Controls(model)
    with gr.Blocks(analytics_enabled=False):
        made.build()
    return made


def defaults(controls: Controls) -> list:
    return [part.value for part in controls.parts]


def test_the_page_starts_on_the_models_own_settings(controls: Controls, model: StraIT) -> None:
    values = controls.values(tuple(defaults(controls)))
    assert values.decoding == model.default_decoding()
    assert (values.label, values.seed, values.count) == (-1, 0, 4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_settings_inside_a_picture_come_back_exactly(controls: Controls, tmp_path: Path, data: st.DataObject) -> None:
    number = st.floats(0, 20)
    steps = st.integers(1, 64)
    wanted = (
        data.draw(st.integers(-1, 199)),
        str(data.draw(st.integers(-(2**63), 2**63 - 1))),
        data.draw(st.integers(1, 16)),
        data.draw(st.floats(0, 5)),
        *(data.draw(kind) for kind in (steps, steps, number, number)),
        data.draw(st.sampled_from(["cosine", "linear", "square"])),
    )
    values = controls.values(wanted)
    last = values.wanted(controls.model)[-1]
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(Image.new("RGB", (4, 4)), settings_inside(controls.model, "", last)))
    again = controls.values(tuple(controls.restored(settings_in(str(path)))))
    assert (again.seed, again.decoding, again.count) == (values.seed, values.decoding, values.count)
    assert again.label == last.label


def test_settings_that_cannot_be_say_so(controls: Controls, tmp_path: Path) -> None:
    good = defaults(controls)
    for place, value, reason in (
        (1, "x", "^seed: 'x' must be a whole number"),
        (1, str(2**63), "^seed"),
        (1, "²", "^seed"),
        (2, None, "^settings: a number is missing"),
        (4, 0, "^decoding.steps"),
        (6, -1, "^decoding.temperature"),
    ):
        with pytest.raises(ValueError, match=reason):
            controls.values((*good[:place], value, *good[place + 1 :]))
    for name, content, reason in (
        ("a.png", png_bytes(Image.new("RGB", (4, 4)), {}), "^picture: the settings inside it are of another kind"),
        ("b.png", b"nothing", "^picture: it is no PNG"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            controls.restored(settings_in(str(tmp_path / name)))
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"^picture: it carries no settings"):
        settings_in(str(tmp_path / "c.png"))


def test_generation_step_by_step_ends_in_the_images_of_the_python_call(
    controls: Controls, model: StraIT, tmp_path: Path
) -> None:
    values = controls.values((7, "12", 3, *defaults(controls)[3:]))
    seen, studio = 0, Studio(model, tmp_path)
    for process in studio.generate(values.wanted(model)):
        assert len(process.steps) == min(seen + 1, 18)
        seen += 1
    assert seen == 19
    expected = [np.asarray(picture) for picture in to_pictures(model.generate([7] * 3, seed=12))]
    for index, (path, wanted) in enumerate(zip(process.files, expected, strict=True)):
        assert np.array_equal(np.asarray(Image.open(path)), wanted)
        assert np.array_equal(process.steps[-1].images[index], wanted)
        assert json.loads(Image.open(path).info["strait"])["index"] == index
    assert process.steps[0].text.startswith("step 1 of 18: top 1, ")
    assert process.steps[12].text.startswith("step 13 of 18: bottom 1, ")
    assert process.steps[17].text == "step 18 of 18: bottom 6, 64 of 64 tokens kept"
    assert sheet(process.steps[0]).width >= 512
    assert sureness_of(process.steps[0], 2).size == (512, 512)
    assert process.steps[0].sure.shape == (3, 4, 4)


def test_steps_are_counted_as_they_are_taken(controls: Controls, model: StraIT, tmp_path: Path) -> None:
    """A level takes no more steps than it has tokens: 16 of 40, and with the bottom's 3 there are 19."""
    wanted = controls.values((7, "12", 1, 0, 40, 3, *defaults(controls)[6:]))
    studio = Studio(model, tmp_path)
    *_, process = studio.generate(wanted.wanted(model))
    texts = [step.text.partition(",")[0] for step in process.steps]
    levels = [*(f"top {index + 1}" for index in range(16)), *(f"bottom {index + 1}" for index in range(3))]
    assert texts == [f"step {number + 1} of 19: {level}" for number, level in enumerate(levels)]
    (begin,) = [function.fn for function in build_page(studio).fns.values() if function.name == "begin"]
    which, number = begin(process)
    assert (number.maximum, number.visible, which.visible) == (19, True, False)


def test_the_page_asks_no_other_host_and_listens_to_this_machine_alone() -> None:
    with serving("web") as server:
        assert "googleapis" not in server.get("/").text
        port = int(server.url.rpartition(":")[2])
        listening = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line}
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
