"""What a person types, understood or refused in one line that names the option and what would be right."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from strait.cli import VERBS, main
from strait.commands import train
from strait.commands.parsing import named_config, parse, parse_settings, verb_parser
from strait.config import CONFIGS, Config, config_names, config_path, read_config, setting_names

TRAIN = ["train", "--config", "smoke", "--data", "DIR", "--model", "M"]


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line with which words are refused."""
    assert main(words) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    return line.removeprefix("strait: ")


def settings(*words: str) -> Config:
    given = ["--data", "DIR", "--model", "M", *words]
    config, _ = parse_settings(train.parser(), named_config(given), given)
    assert config is not None
    return config


# Settings


@pytest.mark.parametrize("name", config_names())
def test_settings_are_those_of_the_file(name: str) -> None:
    assert settings("--config", name) == read_config(CONFIGS / f"{name}.yaml")


def test_a_setting_takes_the_place_of_the_files_wherever_it_is_typed() -> None:
    smoke = read_config(config_path("smoke"))
    changed = dataclasses.replace(
        smoke,
        top=dataclasses.replace(smoke.top, layers=3),
        data=dataclasses.replace(smoke.data, flip=False),
        top_training=dataclasses.replace(smoke.top_training, learning_rate=1e-3, betas=(0.5, 0.9)),
    )
    words = ["--top.layers", "3", "--data.flip=false", "--top_training.learning_rate", "1e-3"]
    words += ["--top_training.betas", "[5e-1, 0.9]"]
    assert settings(*words, "--config", "smoke") == settings("--config=smoke", *words) == changed


def test_a_part_that_may_be_absent_can_be_left_out_and_added() -> None:
    without = settings(
        *("--config", "smoke", "--bottom", "null", "--tokenizer.kind", "vqgan"),
        *("--tokenizer_training.bottom_dropout", "0"),
        *("--decoding.steps", "[8]", "--decoding.temperature", "[1.0]"),
    )
    assert without.bottom is None
    four = ("--decoding.steps", "[8,4,4,2]", "--decoding.temperature", "[1,1,1,1]")
    added = settings("--config", "smoke", "--upsampler.layers", "1", *four)
    assert added.upsampler is not None
    assert added.upsampler.layers == 1


def test_every_setting_has_a_name() -> None:
    names = setting_names(Config)
    assert {"image_size", "top.layers", "bottom.layers", "upsampler.width", "data.flip"} <= set(names)
    assert "tokenizer_training.adversarial.weight" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top.layer", "3"], "--top.layer is not a setting; the nearest are --top.layers"),
        (["--bottom.layer=3"], "--bottom.layer is not a setting; the nearest are --bottom.layers"),
        (["--data.flap", "1"], "--data.flap is not a setting; the nearest are --data.flip"),
        (["--top.layers", "many"], "--top.layers: 'many' is not a whole number"),
        (["--bottom.layers", "many"], "--bottom.layers: 'many' is not a whole number"),
        (["--top.layers"], "--top.layers: a value must follow"),
        (["--top.dropout", "null"], "--top.dropout: 'null' is not a number"),
        (["--run.compile", "1"], "--run.compile: '1' is not true or false"),
        (["--tokenizer.kind", "vqgan3"], "--tokenizer.kind: 'vqgan3' is not one of vqgan2-r, vqgan2-c-deep"),
        (["--top_training.betas", "[0.9]"], "--top_training.betas: '[0.9]' is not a list of 2 values"),
        (["--tokenizer.multipliers", "4"], "--tokenizer.multipliers: '4' is not a list, such as [1, 2]"),
        (["--tokenizer", "small"], "--tokenizer: 'small' is neither a file nor settings"),
        (["--image_size", "null"], "--image_size: 'null' is not a whole number"),
        (["--modle", "M"], "strait train has no option --modle; the nearest is --model"),
        (["middle"], "PART: 'middle' is not one of classifier, tokenizer, top, bottom, upsampler"),
        (["top", "bottom"], "strait train does not take 'bottom'"),
    ],
)
def test_a_wrong_setting_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, [*TRAIN, *words]).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "strait train: --data, --model are needed; strait train --help says what for"),
        (["train", "--data", "x"], "strait train: --model is needed"),
        (["train", "--model"], "--model: a value must follow"),
        (["evaluate"], "evaluate: say what to evaluate: reconstruction or generation"),
        (["generate", "--grid", "g.png", "--count", "1e2"], "--count: '1e2' is not a whole number"),
        (["generate", "--grid", "g.png", "--guidance", "nan"], "--guidance: 'nan' is not a number"),
        (["generate", "--grid", "g.png", "--guidance=high"], "--guidance: 'high' is not a number"),
        (["generate", "--label", "teddy"], "strait generate has no option --label; the nearest is --labels"),
        (["study", "make", "x"], "WHAT: 'make' is not one of create, links, serve, results"),
        (["table", "6", "--data", "x", "--top.layers", "3"], "--top.layers: settings need a configuration"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, words).startswith(message)


def test_the_librarys_names_stay_inside(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["generate", "--count", "x"], [*TRAIN, "--bottom.layers", "x"], [*TRAIN, "--run.seed", "1.5"]):
        line = refused(capsys, words)
        assert "class" not in line
        assert "Parser key" not in line
        assert "Literal" not in line


# Values that are never meant


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_value_is_refused(empty: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["train", "--config", "smoke", "--data", "DIR", "--model", empty],
        ["train", "--config", "smoke", "--data", empty, "--model", "M"],
        ["train", "--config", empty, "--data", "DIR", "--model", "M"],
        ["generate", f"--output={empty}"],
        ["describe", "--config", empty],
        ["edit", "upsample", empty, "--output", "out"],
    ):
        assert "its value is empty" in refused(capsys, words)


def test_the_home_folder_is_meant_by_its_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = verb_parser("try", None)
    parser.add_argument("--model")
    assert parse(parser, ["--model=~/m"]).model == f"{tmp_path}/m"
    assert parse(parser, ["--model", "~"]).model == str(tmp_path)
    assert parse(parser, ["--model", "a~/m"]).model == "a~/m"


# Help


def test_help_is_short_and_says_each_option_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 50
    assert text.count("  --data ") == 1
    assert "null" not in text


def test_help_of_settings_has_the_configurations_own_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--config", "smoke", "--help-settings"])
    smoke = " ".join(capsys.readouterr().out.split())
    assert "--image_size IMAGE_SIZE side in pixels. (type: int, default: 32)" in smoke
    with pytest.raises(SystemExit):
        main(["table", "--help-settings"])
    assert "(type: int, default: 256)" in " ".join(capsys.readouterr().out.split())


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with contextlib.suppress(SystemExit):
            main([verb, "--help"])
        text = capsys.readouterr().out
        assert text.startswith(f"usage: strait {verb} ")
        assert "default: null" not in text


def test_understanding_needs_no_torch() -> None:
    code = (
        "import sys, strait.commands.train as train\n"
        "from strait.commands.parsing import named_config, parse_settings\n"
        "words = '--config smoke --data D --model M --top.layers 3'.split()\n"
        "assert parse_settings(train.parser(), named_config(words), words)[0].top.layers == 3\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
