"""What README and the pages of docs tell people to type, and stand-ins for all that they name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from strait.config import config_path, read_config
from strait.model.config import ModelConfig
from strait.model.strait import random_model

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "src" / "strait" / "shipped" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
_COMMANDS = ("", "sh", "bash")
_NOT_RUN = ("text", "json", "yaml")


@dataclass(frozen=True)
class Snippet:
    """A fenced block: commands of a shell, or Python."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without what is said about it."""
        commands, open_quote = [], ""
        for line in self.text.replace("\\\n", " ").splitlines():
            text = open_quote + line
            if not open_quote:
                # Behind four blanks a page says what the command is for; brackets hold what may be left out.
                text = re.split(r"(?<=\S) {4,}", line)[0] if "\\" not in self.text else line
                if text.startswith("strait"):
                    text = re.sub(r"(?<=\s)\[([^\]]*)\]", r"\1", text)
            try:
                words = shlex.split(text, comments=True)
            except ValueError:
                open_quote = text + "\n"
                continue
            open_quote = ""
            if words:
                commands.append(words)
        assert not open_quote, f"{self.name}: a quote is not closed"
        return commands


def snippets() -> list[Snippet]:
    """Every block that somebody may type, page by page."""
    blocks = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            name, line = page.relative_to(ROOT).as_posix(), text[: match.start()].count("\n") + 1
            language = "python" if match[1] == "python" else "sh" if match[1] in _COMMANDS else match[1]
            if language not in _NOT_RUN:
                assert language in ("python", "sh"), f"{name}:{line}: a block of {language!r} is neither run nor known"
                blocks.append(Snippet(name, line, language, match[2]))
    return blocks


class _Colours(nn.Module):
    """A network for scores: means of the colours over a grid, and logits from them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1) / 255
        return features, self.head(features) * 20


CLASSES = ("daisy", "lemon", "mountain", "sunflower")
_DATA = ("DIR", "FOLDER", "tiny-imagenet", "imagenette-128")
_MODELS = ("A", "B", "M", "MODEL", "OTHER", "SHIPPED")
_NETWORKS = ("NETWORK.pt", "tiny-imagenet-resnet.pt")
_PICTURES = ("IMAGE", "photo.jpg")
_MASKS = ("MASK.png", "mask.png")
UPSAMPLING = "UPSAMPLING"


def make_stand_ins(folder: Path, photographs: Path) -> None:
    """Everything that pages name, under its own name: data, models, networks for scores, a picture and its mask."""
    for name in _DATA:
        for given, class_name in zip(sorted(path for path in photographs.iterdir()), CLASSES, strict=True):
            shutil.copytree(given, folder / name / class_name)
    smoke = read_config(config_path("smoke"))
    for seed, name in enumerate(_MODELS):
        random_model(smoke.model, CLASSES, seed).save_pretrained(folder / name)
        (folder / name / "runs" / "top").mkdir(parents=True)
        lines = [json.dumps({"step": 50 * step, "loss": 7 - step / 10, "skipped": 0}) for step in range(1, 9)]
        (folder / name / "runs" / "top" / "log.jsonl").write_text("\n".join(lines) + "\n")
        shutil.copy(config_path("smoke"), folder / name / "runs" / "config.yaml")
        (folder / name / "runs" / "top" / "pace.jsonl").write_text('{"steps": 10, "seconds": 0.1}\n')
    twice = ModelConfig(smoke.image_size, smoke.tokenizer, smoke.top, smoke.bottom, smoke.bottom)
    random_model(twice, CLASSES).save_pretrained(folder / UPSAMPLING)
    torch.manual_seed(0)
    for name in _NETWORKS:
        torch.jit.script(_Colours()).save(str(folder / name))
    picture = Image.open(next((photographs / "disc").iterdir())).resize((90, 80))
    mask = np.zeros((80, 90), np.uint8)
    mask[20:60, 20:60] = 255
    for name in _PICTURES:
        picture.save(folder / name, format="JPEG")
    for name in _MASKS:
        Image.fromarray(mask).save(folder / name)
