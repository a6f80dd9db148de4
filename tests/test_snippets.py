"""Every command and every Python snippet of README and docs does what it says.

Each is run, in a folder where all that it names stands ready at a tiny size. What would take hours, a GPU, a network
or a person is checked by the parser that would read it: ``ONLY_PARSED`` and ``CHECKED`` are all of these.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snippets import ROOT, UPSAMPLING, Snippet, make_stand_ins, snippets
from strait.cli import VERBS, main
from strait.commands.completion import all_verbs
from strait.config import config_names

SNIPPETS = snippets()
SHELL = [snippet for snippet in SNIPPETS if snippet.language == "sh"]
PYTHON = [snippet for snippet in SNIPPETS if snippet.language == "python"]

# Commands of strait that are parsed and not run, and why.
ONLY_PARSED = {
    r"^web": "serves until it is stopped; tests/test_web.py starts it",
    r"^serve": "serves until it is stopped; tests/test_service.py starts it",
    r"^study serve": "serves until it is stopped; tests/test_study.py starts it",
    r"^study results .*--chart": "draws the answers of people; tests/test_study.py has some",
    r"^push": "a hub and an account on it; tests/test_hub.py pushes to one of its own",
    r"^figure 1": "draws what other verbs have written; tests/test_figure_1.py has some",
    r"^bench .*--config imagenet256": "minutes and gigabytes; the last three want a GPU",
}
# Verbs that take more than a moment.
SLOW = ("train", "encode", "table", "sweep", "bench", "study", "evaluate generation")

# What pages leave to the reader, and what is taken for it.
PLACEHOLDERS = {
    "L": "lemon",
    "SEED": "0",
    "KIND": "vqgan2-c-deep",
    "SHARE": "0.25",
    "NAME": "smoke",
    "HOST:29500": "localhost:29500",
}
_FEW_STEPS = (
    *("--tokenizer_training.steps", "20", "--tokenizer_training.codebook.start", "5"),
    *("--top_training.steps", "10", "--bottom_training.steps", "10", "--run.sample_every", "10"),
)
# Sizes of real work, and the tiny ones in their place.
SMALLER = {
    "--samples": "40",
    "--search-samples": "0",
    "--budget": "0.05",
    "--stop-after": "0.05",
    "--seeds": "1",
    "--repeats": "1",
    "--tokenizer_training.steps": "20",
    "--top_training.steps": "10",
    "--bottom_training.steps": "10",
}


def small(words: list[str]) -> list[str]:
    """The same command at a tiny size."""
    words = filled(words)
    verb = words[0]
    for index, word in enumerate(words[:-1]):
        if word in SMALLER:
            words[index + 1] = SMALLER[word]
        if word == "--config" and verb in ("train", "table") and "shipped" not in words:
            words[index + 1] = "smoke"
        if word == "--model" and "shipped" in words:
            words[index + 1] = "ANEW"  # the one that stands ready is of another shape
        if word == "--count" and verb == "edit":
            words[index + 1] = str(min(int(words[index + 1]), 1 if "process" in words else 2))
    if verb in ("train", "table") and "--config" in words and "--budget" not in words:
        given = [word for word in words if word.startswith("--")]
        pairs = zip(_FEW_STEPS[::2], _FEW_STEPS[1::2], strict=True)
        words += [word for pair in pairs if pair[0] not in given for word in pair]
    if "classifier" in words and "--classifier_training.steps" not in words:
        words += ["--classifier_training.steps", "10"]
    if verb in ("table", "sweep") or words[:2] == ["evaluate", "generation"]:
        words += [] if "--features" in words else ["--features", "NETWORK.pt"]
        words += [] if "--samples" in words or verb == "table" else ["--samples", SMALLER["--samples"]]
    if verb == "table":
        words += [] if "--samples" in words else ["--samples", SMALLER["--samples"]]
        words += [] if "--search-samples" in words else ["--search-samples", "0"]
    if words[:2] == ["evaluate", "reconstruction"] and "--features" not in words:
        words += ["--features", "none"]
    if words[:2] == ["edit", "upsample"]:
        words = [word for word in words if word not in ("--model", "MODEL")] + ["--model", UPSAMPLING]
    if verb in ("generate", "edit") and not {"--model", "--steps", "--list"} & set(words):
        words += ["--steps", "3+2"]
    if words[:2] == ["study", "create"] and "--quality" not in words:
        words += ["--quality", "4", "--diversity", "1", "--set-size", "4"]
    return words


def filled(words: list[str]) -> list[str]:
    """The words of a verb with all in place that a page leaves to the reader."""
    words = [PLACEHOLDERS.get(word, word) for word in (words[: words.index(">")] if ">" in words else words)]
    # The table of actions says once, below itself, that each takes an output.
    return [*words, "--output", "out"] if words[0] == "edit" and "--output" not in words else words


class Parsed(Exception):
    """The command line was understood; nothing is done."""


def parse_alone(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the real parser of a verb read its words, and stop there."""
    verb, *rest = filled(words)
    assert verb in VERBS, verb
    module = importlib.import_module(f"strait.commands.{verb}")
    for name in ("parse", "parse_settings"):
        real: Callable[..., Any] | None = getattr(module, name, None)
        if real is None:
            continue

        def stop(*given: Any, real: Callable[..., Any] = real) -> None:
            real(*given)
            raise Parsed

        monkeypatch.setattr(module, name, stop)
    with pytest.raises(Parsed):
        module.run(rest)


def installed(words: list[str]) -> None:
    """`pip install` of this package, with extras that there are; or of a wheel."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[1] in ("install", "wheel"), words
    for word in words[2:]:
        if word.startswith((".", "strait")):
            named = re.fullmatch(r"(?:\.|strait)(?:\[([\w,]+)\])?", word)
            assert named, word
            assert set((named[1] or "train").split(",")) <= set(extras), word


def made(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert words[1] in targets, words


def script(words: list[str]) -> None:
    """A script of ours: it is there, and knows its options. Python's own: it compiles, or is a module."""
    if words[1] == "-c":
        compile(words[2], "snippet", "exec")
    elif words[1] == "-m":
        assert importlib.util.find_spec(words[2])
    else:
        # What strait export writes lies in the package.
        source = (ROOT / words[1].replace("FILES/", "src/strait/export/")).read_text()
        for word in words[2:]:
            assert not word.startswith("--") or f'"{word}"' in source, f"{words[1]} has no {word}"


def asked(words: list[str]) -> None:
    """A request to the service: its path is there, and its body fits."""
    from strait.apps.service.schema import EditBody, GenerateBody

    body = words[words.index("-d") + 1]
    if body != "@-":  # what another program of the line gives: ``put_into_a_body``
        (GenerateBody if words[1].endswith("generate") else EditBody).model_validate_json(body)
    assert words[1].endswith(("/v1/images/generate", "/v1/images/edit"))


def put_into_a_body(words: list[str]) -> None:
    """sed, which puts a picture in base64 into the body of an edit: it fits, too."""
    from strait.apps.service.schema import EditBody

    body = re.fullmatch(r"s/\.\*/(.*)/", words[1])
    assert body, words
    EditBody.model_validate_json(body[1].replace("&", "aGVsbG8="))


def started_many(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun: what comes behind -m strait.cli is a command of ours."""
    ours = words[words.index("strait.cli") + 1 :]
    if ours[-1] != "...":
        parse_alone(ours, monkeypatch)


def contained(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """docker: the file is there; what comes behind the image's name is a command of ours."""
    assert (ROOT / "Dockerfile").exists()
    if words[1] == "run" and words[-1] != "strait":
        parse_alone(words[words.index("strait") + 1 :], monkeypatch)


# Programs that are not strait, and how their words are checked. Anything else fails: say here how it is checked.
CHECKED: dict[str, Callable[..., None]] = {
    "make": made,  # installs and tests: what CI does
    "pip": installed,  # the network
    "python": script,  # benchmarks take hours
    "curl": asked,  # a running service; tests/test_service.py asks one
    "base64": lambda words: None,  # what sed puts into the body
    "sed": put_into_a_body,
    "torchrun": started_many,  # many GPUs; tests/test_distributed.py starts two processes
    "sbatch": lambda words: (ROOT / words[1]).read_text(),  # a cluster
    "docker": contained,  # an engine, and the network
}


def program(words: list[str]) -> str:
    return words[0].removeprefix(".venv/bin/")


def runs(words: list[str]) -> bool:
    text = " ".join(words[1:])
    return program(words) == "strait" and not any(re.search(pattern, text) for pattern in ONLY_PARSED)


def is_slow(snippet: Snippet) -> bool:
    lines = [" ".join(words[1:]) for words in snippet.commands if program(words) == "strait"]
    return any(line.startswith(verb) for line in lines for verb in SLOW)


def blocks_to_run() -> list[Any]:
    """Every block with commands of ours, once: pages may say the same, and it need not be done twice."""
    blocks: dict[tuple[str, ...], Snippet] = {}
    for snippet in SHELL:
        commands = tuple(" ".join(words) for words in snippet.commands if runs(words))
        if commands:
            blocks.setdefault(commands, snippet)
    return [
        pytest.param(snippet, marks=[pytest.mark.slow] if is_slow(snippet) else [], id=snippet.name)
        for snippet in blocks.values()
    ]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("stand-ins")
    make_stand_ins(folder, photo_folder)
    return folder


@pytest.fixture
def at_hand(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with the stand-ins in it."""
    folder = tmp_path / "here"
    shutil.copytree(stand_ins, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("snippet", SHELL, ids=lambda snippet: snippet.name)
def test_every_command_is_understood(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert snippet.commands
    for words in snippet.commands:
        if program(words) == "strait":
            with monkeypatch.context() as patch:
                parse_alone(words[1:], patch)
            continue
        assert program(words) in CHECKED, f"{snippet.name}: how is {words[0]} to be checked?"
        check = CHECKED[program(words)]
        with monkeypatch.context() as patch:
            check(words, patch) if check in (started_many, contained) else check(words)


@pytest.mark.parametrize("snippet", blocks_to_run())
def test_every_command_of_ours_runs(snippet: Snippet, at_hand: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun: set[str] = set()
    for words in filter(runs, snippet.commands):
        command = small(words[1:])
        if command[0] == "train":
            # Where training begins there is no model yet, and so no stand-in.
            model = command[command.index("--model") + 1]
            if model not in begun:
                shutil.rmtree(model, ignore_errors=True)
            begun.add(model)
        before = {path for path in at_hand.rglob("*") if path.is_file()}
        assert main(command) == 0, (command, capsys.readouterr().err)
        output = capsys.readouterr().out
        after = {path for path in at_hand.rglob("*") if path.is_file()}
        assert output or after - before, f"{command} neither says nor writes anything"


@pytest.mark.parametrize("snippet", PYTHON, ids=lambda snippet: snippet.name)
def test_every_python_snippet_runs(snippet: Snippet, at_hand: Path) -> None:
    exec(compile(snippet.text, snippet.name, "exec"), {"__name__": "__main__"})


def options_of(parser: Any) -> set[str]:
    """The options of a verb, those of all its actions together."""
    options = {option for action in parser._actions for option in action.option_strings}
    actions = parser._subcommands_action
    return options.union(*map(options_of, actions.choices.values() if actions else []))


def test_what_is_said_inside_a_line_exists() -> None:
    """`strait VERB --option` in the midst of a sentence or a table."""
    flags = {verb: options_of(parser) for verb, parser in all_verbs()._subcommands_action.choices.items()}  # type: ignore
    seen = 0
    for page in sorted({ROOT / snippet.page for snippet in SNIPPETS} | set((ROOT / "docs").rglob("*.md"))):
        for verb, rest in re.findall(r"`strait ([a-z]+)([^`]*)`", page.read_text()):
            assert verb in VERBS, f"{page.name}: strait {verb}"
            for option in re.findall(r"(?<!\S)(--[\w.-]+)", rest):
                assert option in flags[verb], f"{page.name}: strait {verb} {option}"
                seen += 1
            for name in re.findall(r"--config ([a-z][\w./-]+)", rest):
                assert name in config_names() or (ROOT / name).exists(), f"{page.name}: --config {name}"
    assert seen
