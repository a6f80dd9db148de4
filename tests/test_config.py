"""Settings in YAML: those that ship are whole, what is wrong is named, and they go there and back unchanged."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from strait.config import CONFIGS, Config, config_names, config_path, read_config, write_config
from strait.data.config import DataConfig
from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig, from_dict
from strait.tokenizer.config import TokenizerConfig
from strait.training.config import TokenizerTrainingConfig, TransformerTrainingConfig
from strait.transformer.config import TransformerConfig


def write(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", config_names())
def test_a_shipped_configuration_is_whole(name: str, tmp_path: Path) -> None:
    config = read_config(config_path(name))
    assert isinstance(config, Config)
    sizes = config.model.grids
    sizes_of_images = 1 if config.upsampler is None else 2
    assert len(sizes) == len(config.decoding.steps) == sizes_of_images * config.tokenizer.num_levels
    first = config_path(name).read_text().splitlines()[0]
    assert first.startswith(f"# strait train --config {name} ")
    write_config(tmp_path / "deeper" / "again.yaml", config)
    assert read_config(tmp_path / "deeper" / "again.yaml") == config
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["again.yaml"]


def test_the_shipped_configurations_are_listed() -> None:
    assert {"imagenet256", "smoke"} <= set(config_names())
    assert config_path("smoke") == CONFIGS / "smoke.yaml"
    with pytest.raises(ValueError, match=f"'nothing' is neither a file nor one of {', '.join(config_names())}"):
        config_path("nothing")


def test_a_configuration_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path, "image_size: 128")
    assert config_path(str(path)) == path
    assert read_config(path) == Config(image_size=128)


def test_the_papers_configuration_has_the_papers_numbers() -> None:
    config = read_config(config_path("imagenet256"))
    assert config.model.grids == ((16, 16), (32, 32))
    assert config.tokenizer == TokenizerConfig(
        kind="vqgan2-r", channels=128, multipliers=(1, 1, 2, 2, 4), res_blocks=2, codebook_size=8192, code_dim=32
    )
    top, bottom = config.top, config.bottom
    assert bottom is not None
    assert (top.layers, top.width, top.mlp, top.heads) == (48, 768, 5120, 32)
    assert (bottom.layers, bottom.width, bottom.mlp, bottom.heads) == (16, 768, 4096, 24)
    assert config.decoding.steps == (18, 6)
    for training in (config.tokenizer_training, config.top_training, config.bottom_training):
        assert training.batch_size == 256
        assert training.learning_rate == 1e-4
        # 200 epochs of ImageNet's 1,281,167 training images.
        assert training.steps == pytest.approx(200 * 1_281_167 / 256, rel=0.01)
    # Table 11, but for the optimizer and the discriminator's width: docs/choices.md.
    stage1 = config.tokenizer_training
    assert (stage1.optimizer, stage1.betas) == ("adam", (0.0, 0.99))
    assert (stage1.learning_rate_schedule, stage1.warmup_steps) == ("constant", 0)
    assert (stage1.perceptual, stage1.perceptual_weight) == ("lpips", 0.1)
    assert (stage1.bottom_dropout, stage1.ema_decay) == (0.0, 0.999)
    adversarial = stage1.adversarial
    assert (adversarial.weight, adversarial.r1_weight, adversarial.r1_every) == (0.1, 10.0, 1)
    assert (adversarial.start, adversarial.ramp, adversarial.lecam_weight) == (0.0, 0.0, 0.0)
    assert (adversarial.normalize, adversarial.channels, adversarial.max_channels) == (True, 128, 512)
    assert (stage1.codebook.commitment_weight, stage1.codebook.entropy_weight) == (0.25, 0.1)
    # Table 12.
    for stage2 in (config.top_training, config.bottom_training):
        assert stage2.betas == (0.9, 0.96)
        assert stage2.weight_decay == 0.045
        assert stage2.gradient_clip == 3.0
        assert stage2.label_smoothing == 0.1
        assert stage2.warmup_steps == 5000
        assert stage2.label_drop_rate == 0.1
        assert (stage2.mask_schedule, stage2.ema_decay, stage2.condition_augmentation) == ("cosine", 0.0, 0.0)
    assert top.dropout == bottom.dropout == 0.1


def test_the_papers_larger_configuration_adds_the_upsampler_and_its_steps_alone() -> None:
    base, larger = (read_config(config_path(name)) for name in ("imagenet256", "imagenet512"))
    assert larger.upsampler == TransformerConfig(layers=3, width=768, mlp=4096, heads=24, dropout=0.1)
    assert larger.upsampler_training == base.bottom_training
    same = {"upsampler": None, "decoding": base.decoding, "upsampler_training": base.upsampler_training}
    assert dataclasses.replace(larger, **same) == base
    assert larger.decoding == dataclasses.replace(base.decoding, steps=(18, 6, 9, 3), temperature=(4.5,) * 4)


@pytest.mark.parametrize("text", ["", "# nothing but a remark\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    # It may be what a full disk left of a run's own settings, which the paper's defaults must not replace.
    with pytest.raises(ValueError, match="it is empty"):
        read_config(write(tmp_path, text))


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "image_size: 256\n")) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_sise: 64", "config.image_sise is not a setting; there are bottom, .*image_size"),
        ("tokenizer: {chanels: 8}", "config.tokenizer.chanels is not a setting"),
        ("top: {layer: 8}", "config.top.layer is not a setting"),
        (
            "tokenizer_training: {adversarial: {wait: 1}}",
            "config.tokenizer_training.adversarial.wait is not a setting",
        ),
        ("image_size: large", "config.image_size must be int, not 'large'"),
        (f"top_training: {{learning_rate: {10**310}}}", "config.top_training.learning_rate: the number is too large"),
        (
            "tokenizer_training: {adversarial: {start: 1.5}}",
            "start: 1.5 is a share of training, 1 at most",
        ),
        ("image_size: 64.5", "config.image_size must be int, not 64.5"),
        ("image_size: true", "config.image_size must be int, not True"),
        ("run: {compile: 1}", "config.run.compile must be bool, not 1"),
        ("run: {compile: 'yes please'}", "config.run.compile must be bool"),
        ("tokenizer: {kind: vqgan3}", "config.tokenizer.kind: 'vqgan3' is not one of vqgan2-r"),
        ("tokenizer: {multipliers: 4}", "config.tokenizer.multipliers must be a list, not 4"),
        ("tokenizer: {multipliers: [1, 2, wide]}", "config.tokenizer.multipliers must be int, not 'wide'"),
        ("tokenizer: small", "config.tokenizer must be an object, not str"),
        ("tokenizer_training: {betas: [0.9]}", "config.tokenizer_training.betas must have 2 values, not 1"),
        ("tokenizer_training: {perceptual: 3}", "config.tokenizer_training.perceptual must be str, not 3"),
        ("top: {dropout: high}", "config.top.dropout must be float, not 'high'"),
        ("top: {heads: 5}", "transformer.heads: 5 does not divide the width 768"),
        ("image_size: 100", "image_size: 100 is not a multiple of the downsampling 16"),
        ("decoding: {steps: [8], temperature: [1.0]}", "must give steps for 2 level"),
        ("bottom: null", "so add a bottom transformer"),
        ("[1, 2]", "config must be an object, not list"),
        ("image_size: [", "while parsing"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["1e-3", "'1e-3'", "1E-3", "0.001", "1.0e-3", ".001"])
def test_a_number_is_a_number_however_it_is_written(tmp_path: Path, text: str) -> None:
    config = read_config(write(tmp_path, f"top_training: {{learning_rate: {text}, betas: [9e-1, 0]}}"))
    assert config.top_training.learning_rate == 1e-3
    assert config.top_training.betas == (0.9, 0.0)
    assert isinstance(config.top_training.betas[1], float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {seed: 1}\ntop: {layers: 2}\nrun: {seed: 2}", "line 3: run is set twice, first in line 1"),
        ("top:\n  layers: 2\n  width: 64\n  layers: 3\n", "line 4: layers is set twice, first in line 2"),
    ],
)
def test_a_setting_that_is_there_twice_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path, text))


def test_blocks_may_share_what_they_hold(tmp_path: Path) -> None:
    """A block that others begin from may itself begin from another; its own settings win."""
    text = (
        "tokenizer_training: {steps: 7}\n"
        "top_training: &one {steps: 5, batch_size: 8}\n"
        "bottom_training: &two {<<: *one, steps: 6}\n"
        "upsampler_training: {<<: *two, batch_size: 4}\n"
    )
    config = read_config(write(tmp_path, text))
    for part, expected in (("top", (5, 8)), ("bottom", (6, 8)), ("upsampler", (6, 4))):
        training = getattr(config, f"{part}_training")
        assert (training.steps, training.batch_size) == expected


@pytest.mark.parametrize("text", ["image_size: null", "run: {precision: null}", "top: null", "top: []", "data: 5"])
def test_nothing_is_no_value(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=rf"config\.{text.partition(':')[0]}"):
        read_config(write(tmp_path, text))


def test_a_word_stays_a_word(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, "tokenizer_training: {perceptual: none}"))
    assert config.tokenizer_training.perceptual == "none"


def test_a_single_scale_model_has_no_bottom(tmp_path: Path) -> None:
    path = write(tmp_path, "tokenizer: {kind: vqgan}\nbottom: null\ndecoding: {steps: [8], temperature: [4.5]}\n")
    config = read_config(path)
    assert config.bottom is None
    assert config.model.grids == ((16, 16),)
    write_config(path, config)
    assert read_config(path) == config


def powers(largest: int) -> st.SearchStrategy[int]:
    return st.integers(0, largest).map(lambda power: 2**power)


FLOATS = st.floats(1e-12, 1e6)
CONFIGURATIONS = st.builds(
    lambda channels, codes, layers, dropout, rate, betas, decay, perceptual, seconds, steps, temperatures, workers: (
        Config(
            tokenizer=TokenizerConfig(channels=channels, bottom_codebook_size=codes),
            top=TransformerConfig(layers=layers, dropout=dropout),
            decoding=DecodingConfig(steps=steps, temperature=temperatures),
            data=DataConfig(workers=workers),
            tokenizer_training=TokenizerTrainingConfig(learning_rate=rate, betas=betas, perceptual=perceptual),
            top_training=TransformerTrainingConfig(ema_decay=decay, weight_decay=seconds),
        )
    ),
    powers(8),
    st.none() | powers(13),
    st.integers(1, 60),
    st.floats(0, 0.999),
    FLOATS,
    st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    st.floats(0, 0.9999999),
    st.sampled_from(["none", "lpips", "features/own network.pt", "C:\\network.pt"]),
    FLOATS,
    st.tuples(st.integers(1, 99), st.integers(1, 99)),
    st.tuples(FLOATS, FLOATS),
    st.none() | st.integers(0, 64),
)


@given(config=CONFIGURATIONS)
def test_any_configuration_goes_there_and_back(config: Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "there-and-back.yaml"
    write_config(path, config)
    assert read_config(path) == config


def test_a_model_keeps_its_part_of_the_settings() -> None:
    config = Config(image_size=64)
    assert config.model == ModelConfig(image_size=64)
    assert from_dict(ModelConfig, dataclasses.asdict(config.model), "model") == config.model


def test_settings_are_read_without_torch() -> None:
    code = "import sys, strait.config as c; c.read_config(c.config_path('smoke')); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        *(
            (part, name, value)
            for part in ("tokenizer_training", "top_training", "classifier_training")
            for name, value in (
                ("learning_rate", -1.0),
                ("learning_rate", float("nan")),
                ("warmup_steps", -3),
                ("betas", [2.0, 3.0]),
                ("betas", [0.5, 1.0]),
            )
        ),
        ("bottom_training", "weight_decay", -0.1),
        ("tokenizer_training", "perceptual_weight", -0.1),
    ],
)
def test_numbers_that_training_cannot_take_are_named(tmp_path: Path, part: str, setting: str, value: object) -> None:
    tree = yaml.safe_load(config_path("smoke").read_text())
    tree.setdefault(part, {})[setting] = value
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=rf"training\.{setting}: .*must"):
        read_config(file)
