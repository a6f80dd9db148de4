"""What a shell offers to complete, asked of a real shell."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from strait.cli import VERBS, main
from strait.config import config_names


def script(shell: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(["completion", shell]) == 0
    return output.getvalue()


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    path = tmp_path_factory.mktemp("completion") / "strait"
    path.write_text(script("bash"))
    return path


def offered(bash: Path, line: str) -> list[str]:
    """What bash would offer at the end of a line."""
    words = line.split(" ")
    ask = (
        f"source {bash}; COMP_WORDS=({' '.join(word or chr(39) * 2 for word in words)}); COMP_CWORD={len(words) - 1}; "
        '_shtab_strait; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return sorted(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("strait gen", ["generate"]),
        ("strait edit tra", ["transfer"]),
        ("strait generate --lab", ["--labels"]),
        ("strait edit transfer --keep", ["--keep", "--keep-bottom"]),
        ("strait edit transfer IMAGE --choose ", ["confidence", "random"]),
        ("strait evaluate generation --ste", ["--steps"]),
        ("strait train top --top.lay", ["--top.layers"]),
        ("strait table 6 --config ", sorted(config_names())),
        ("strait table 6 --tokenizer.kind cas", ["cascade"]),
        ("strait train --bottom.lay", ["--bottom.layers"]),
        ("strait train --data.fl", ["--data.flip"]),
        ("strait bench --conf", ["--config"]),
        ("strait generate --output ", []),  # then bash offers files
    ],
)
def test_bash_offers_what_the_words_before_allow(bash: Path, line: str, completions: list[str]) -> None:
    assert offered(bash, line) == completions


def test_bash_offers_every_verb(bash: Path) -> None:
    assert offered(bash, "strait ") == sorted(VERBS)
    assert offered(bash, "strait --") == ["--help", "--version"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_it_without_complaint(shell: str, tmp_path: Path) -> None:
    text = script(shell)
    assert all(verb in text for verb in VERBS)
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    path = tmp_path / "strait"
    path.write_text(text)
    # zsh evaluates it once its own completion is there.
    read = f'autoload -Uz compinit; compinit -u; eval "$(<{path})"' if shell == "zsh" else f"source {path}"
    done = subprocess.run([shell, "-c", read], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
