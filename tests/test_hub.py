"""Models from a hub and to it: the hub library's real client against a stand-in server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants

from stand_in_hub import Hub, Repository, stand_in_hub
from strait.cli import main
from strait.model.config import ModelError
from strait.model.hub import find_folder
from strait.model.strait import StraIT, random_model
from test_model_folder import CLASSES, CONFIG

NAME = "someone/small-one"


def folder_files(model: StraIT, folder: Path) -> dict[str, bytes]:
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does where it is set before the hub's library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a model of two commits, the first tagged v1; this process is online, its cache empty."""
    with stand_in_hub() as hub:
        point_at(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        repository = Repository()
        for seed, revision in ((1, "v1"), (2, "main")):
            files = folder_files(random_model(CONFIG, CLASSES, seed), tmp_path / f"made-{seed}")
            others = {"runs/top/log.json": b"{}", "notes.json": b"{}", "LICENSE": b"as you like", "weights.bin": b"no"}
            repository.commit({**files, **others, "README.md": b"---\nlicense: other\n---\n\n# Small\n"}, revision)
        hub.models[NAME] = repository
        yield hub


def refused(source: str, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        StraIT.from_pretrained(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_is_downloaded_and_is_the_one_that_was_shared(hub: Hub, tmp_path: Path) -> None:
    model = StraIT.from_pretrained(NAME)
    assert model.weights_hash() == random_model(CONFIG, CLASSES, 2).weights_hash()
    assert model.card.endswith("# Small\n")
    (snapshot,) = (tmp_path / "cache" / "models--someone--small-one" / "snapshots").iterdir()
    names = ["LICENSE", "README.md", "bottom.safetensors", "classes.txt", "config.json"]
    assert sorted(path.name for path in snapshot.iterdir()) == [*names, "tokenizer.safetensors", "top.safetensors"]
    assert any("strait" in agent for agent in hub.agents)


def test_a_revision_is_a_tag_a_branch_or_a_commit(hub: Hub) -> None:
    first = random_model(CONFIG, CLASSES, 1).weights_hash()
    commit = hub.models[NAME].names["v1"]
    assert StraIT.from_pretrained(NAME, revision="v1").weights_hash() == first
    assert StraIT.from_pretrained(f"{NAME}@v1").weights_hash() == first
    assert StraIT.from_pretrained(NAME, revision=commit).weights_hash() == first
    assert StraIT.from_pretrained(NAME, revision="main").weights_hash() != first
    assert "no such branch, tag or commit" in refused(f"{NAME}@v3")
    assert f"{NAME}@v3 is not a folder" in refused(NAME, revision="v3")
    assert "differs from main" in refused(f"{NAME}@v1", revision="main")


def test_what_the_cache_has_is_not_downloaded_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = StraIT.from_pretrained(NAME).weights_hash()
    downloads = [line for line in hub.asked if "/resolve/" in line and line.startswith("GET")]
    assert len(downloads) == len(set(downloads)) == 7
    hub.asked.clear()
    assert StraIT.from_pretrained(NAME).weights_hash() == digest
    assert not any("/resolve/" in line for line in hub.asked)
    hub.asked.clear()
    assert StraIT.from_pretrained(NAME, local_files_only=True).weights_hash() == digest
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert StraIT.from_pretrained(NAME).weights_hash() == digest
    assert hub.asked == []


def test_a_hub_that_is_gone_leaves_what_the_cache_has(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = StraIT.from_pretrained(NAME).weights_hash()
    point_at("http://127.0.0.1:9", monkeypatch)
    assert StraIT.from_pretrained(NAME).weights_hash() == digest
    assert refused("someone/else").endswith("it is not cached, and http://127.0.0.1:9 cannot be reached")


def test_a_cache_of_ones_own(hub: Hub, tmp_path: Path) -> None:
    StraIT.from_pretrained(NAME, cache_dir=tmp_path / "mine")
    assert (tmp_path / "mine" / "models--someone--small-one").is_dir()
    assert not (tmp_path / "cache").exists()
    hub.asked.clear()
    StraIT.from_pretrained(NAME, cache_dir=tmp_path / "mine", local_files_only=True)
    assert hub.asked == []
    assert "local_files_only forbids" in refused(NAME, local_files_only=True)


def test_what_cannot_be_had_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(NAME, local_files_only=True) == (
        f"--model: {NAME} is not a folder, and could not be downloaded: "
        "it is not cached, and local_files_only forbids downloading it"
    )
    assert "the hub does not have it, or it is private" in refused("someone/nothing")
    hub.models["someone/gated"] = Repository(gated=True)
    assert "access must be requested" in refused("someone/gated")
    hub.models["someone/empty"] = Repository()
    hub.models["someone/empty"].commit({"README.md": b"# Nothing\n"})
    assert refused("someone/empty").endswith("is not a model folder (it has no config.json)")
    assert "not a folder, and could not be downloaded" in refused("some one/else")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refused("someone/nothing")


def test_a_private_model_wants_its_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.models[NAME].token = "open-sesame"
    assert "it is private: log in" in refused(NAME)
    assert "it is private" in refused(NAME, token="wrong")
    StraIT.from_pretrained(NAME, token="open-sesame")
    monkeypatch.setenv("HF_TOKEN", "open-sesame")
    StraIT.from_pretrained(f"{NAME}@v1")


def test_a_folder_goes_before_a_hub_and_has_no_revisions(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random_model(CONFIG, CLASSES, 9).save_pretrained(NAME)
    assert find_folder(NAME) == Path(NAME)
    assert StraIT.from_pretrained(NAME).weights_hash() == random_model(CONFIG, CLASSES, 9).weights_hash()
    assert hub.asked == []
    assert (
        refused(NAME, revision="v1") == f"revision: {NAME} is a folder and has no v1; only hub models have revisions"
    )


def test_a_model_goes_to_the_hub_and_comes_back(hub: Hub) -> None:
    model = random_model(CONFIG, CLASSES, seed=5)
    address = model.push_to_hub("me/mine", commit_message="The first", private=True, token="t")
    shared = hub.models["me/mine"]
    assert address == f"{hub.url}/me/mine/commit/{shared.names['main']}"
    assert hub.headers[-1]["summary"] == "The first"
    parts = ["bottom.safetensors", "tokenizer.safetensors", "top.safetensors"]
    assert sorted(shared.files()) == [
        ".gitattributes",
        "README.md",
        parts[0],
        "classes.txt",
        "config.json",
        *parts[1:],
    ]
    assert StraIT.from_pretrained("me/mine").weights_hash() == model.weights_hash()


def test_the_card_says_what_the_model_is(hub: Hub) -> None:
    model = random_model(CONFIG, CLASSES, seed=5)
    model.push_to_hub("me/mine")
    card = ModelCard(hub.models["me/mine"].files()["README.md"].decode())
    assert card.data.to_dict() == {
        "library_name": "strait",
        "tags": ["strait", "image-generation", "masked-token-modeling"],
    }
    assert card.text.strip().startswith("# mine")
    assert model.weights_hash() in card.text
    assert 'StraIT.from_pretrained("me/mine")' in card.text
    parameters = sum(value.numel() for value in model.top.parameters())
    assert f"| top | {parameters:,} |" in card.text
    assert all(name in card.text for name in CLASSES)
    random_model(CONFIG, seed=5).push_to_hub("me/without-classes")
    card = ModelCard(hub.models["me/without-classes"].files()["README.md"].decode())
    assert card.data.pipeline_tag == "unconditional-image-generation"


def test_a_card_of_ones_own_stays_and_gets_its_metadata(hub: Hub) -> None:
    StraIT.from_pretrained(NAME).push_to_hub("me/copy")
    card = ModelCard(hub.models["me/copy"].files()["README.md"].decode())
    assert card.text.strip() == "# Small"
    assert card.data.to_dict()["license"] == "other"
    assert card.data.library_name == "strait"
    model = random_model(CONFIG, CLASSES)
    model.push_to_hub("me/copy", card="# Mine\n")
    assert ModelCard(hub.models["me/copy"].files()["README.md"].decode()).text.strip() == "# Mine"
    with pytest.raises(ModelError, match="metadata is not YAML"):
        model.push_to_hub("me/copy", card="---\ntags: [\n---\n# Mine\n")


def test_a_card_stays_with_its_model(tmp_path: Path) -> None:
    model = random_model(CONFIG, CLASSES)
    model.card = "# Mine\n"
    model.save_pretrained(tmp_path / "model")
    loaded = StraIT.from_pretrained(tmp_path / "model")
    assert loaded.card == "# Mine\n"
    (tmp_path / "model" / "README.md").write_text("# Changed\n")
    loaded.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "# Changed\n"


def test_a_saved_model_says_what_it_is_until_somebody_else_does(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    random_model(CONFIG, CLASSES, seed=5).save_pretrained(folder)
    readme = folder / "README.md"
    card = ModelCard(readme.read_text())
    assert card.data.library_name == "strait"
    assert card.text.strip().startswith("# A StraIT model")
    assert 'StraIT.from_pretrained("path/to/this/folder")' in card.text
    model = random_model(CONFIG, CLASSES, seed=6)
    model.save_pretrained(folder)
    assert model.weights_hash() in readme.read_text(), "the card is of these weights"
    StraIT.from_pretrained(folder).push_to_hub("me/mine")
    assert 'StraIT.from_pretrained("me/mine")' in hub.models["me/mine"].files()["README.md"].decode()
    mine = readme.read_text().replace("Not stated.", "Photographs of my garden.")
    readme.write_text(mine)
    loaded = StraIT.from_pretrained(folder)
    assert loaded.card == mine
    random_model(CONFIG, CLASSES, seed=7).save_pretrained(folder)
    assert readme.read_text() == mine


def test_push_on_the_command_line(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model(CONFIG, CLASSES, seed=5)
    model.save_pretrained(tmp_path / "model")
    words = ["push", "me/mine", "--model", str(tmp_path / "model")]
    assert main([*words, "--private", "--message", "The first"]) == 0
    shared = hub.models["me/mine"]
    assert capsys.readouterr().out.strip() == f"{hub.url}/me/mine/commit/{shared.names['main']}"
    assert "private" in (hub.created[-1].get("visibility"), hub.created[-1].get("private") and "private")
    assert hub.headers[-1]["summary"] == "The first"
    assert StraIT.from_pretrained("me/mine").weights_hash() == model.weights_hash()
    assert main([*words, "--revision", "half", "--precision", "bfloat16"]) == 0
    half = StraIT.from_pretrained("me/mine@half").state_dict()
    assert all(torch.equal(half[name], value.bfloat16().float()) for name, value in model.state_dict().items())
    capsys.readouterr()
    for wrong, message in (
        (["mine", *words[2:]], "push: 'mine' is not the name of a repository, which is USER/NAME"),
        ([*words[1:], "--precision", "int8"], "--precision: 'int8' is neither float32 nor bfloat16"),
        (["me/mine", "--model", str(tmp_path / "none")], "there is no folder"),
    ):
        assert main(["push", *wrong]) == 2
        assert message in capsys.readouterr().err
    hub.models["other/one"] = Repository(token="theirs")
    assert main(["push", "other/one", *words[2:]]) == 2
    assert "other/one could not be uploaded" in capsys.readouterr().err


def test_the_repository_is_the_model_that_was_pushed_last(hub: Hub) -> None:
    random_model(CONFIG, CLASSES).push_to_hub("me/mine")
    hub.models["me/mine"].files()["notes.txt"] = b"mine"
    fewer = random_model(CONFIG)
    fewer.trained.discard("bottom")
    fewer.push_to_hub("me/mine")
    assert sorted(hub.models["me/mine"].files()) == [
        ".gitattributes",
        "README.md",
        "config.json",
        "notes.txt",
        "tokenizer.safetensors",
        "top.safetensors",
    ]
    loaded = StraIT.from_pretrained("me/mine")
    assert (loaded.trained, len(loaded.classes)) == ({"tokenizer", "top"}, 0)


def test_a_branch_and_half_precision(hub: Hub) -> None:
    model = random_model(CONFIG, CLASSES, seed=5)
    model.push_to_hub("me/mine")
    random_model(CONFIG, CLASSES, seed=6).push_to_hub("me/mine", revision="next", dtype=torch.bfloat16)
    assert StraIT.from_pretrained("me/mine").weights_hash() == model.weights_hash()
    half = StraIT.from_pretrained("me/mine@next")
    next_model = random_model(CONFIG, CLASSES, seed=6)
    for name, value in half.state_dict().items():
        assert torch.equal(value, next_model.state_dict()[name].bfloat16().float())


def test_what_the_hub_does_not_take_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(CONFIG, CLASSES)
    hub.models["other/one"] = Repository(token="theirs")
    with pytest.raises(ModelError, match=r"push_to_hub: other/one could not be uploaded: .*private") as caught:
        model.push_to_hub("other/one", token="mine")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="could not be uploaded: HF_HUB_OFFLINE is set"):
        model.push_to_hub("other/one")
    model.trained.clear()
    with pytest.raises(ModelError, match="has no tokenizer yet"):
        model.push_to_hub("other/one")


def test_the_environment_counts_on_the_command_line_too(hub: Hub, tmp_path: Path) -> None:
    def describe(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "own"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "strait.cli", "describe", "--json", "--model", *words],
            env={**os.environ, **settings, "HF_HUB_OFFLINE": "0", **more},
            capture_output=True,
            text=True,
        )

    missing = describe(NAME, HF_HUB_OFFLINE="1")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "HF_HUB_OFFLINE forbids downloading it" in missing.stderr
    description = describe(f"{NAME}@v1")
    assert description.returncode == 0, description.stderr
    assert json.loads(description.stdout)["hash"] == random_model(CONFIG, CLASSES, 1).weights_hash()
    hub.asked.clear()
    again = describe(f"{NAME}@v1", HF_HUB_OFFLINE="1")
    assert (again.stdout, hub.asked) == (description.stdout, [])
