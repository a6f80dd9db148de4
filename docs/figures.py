"""Our own figures for docs/paper.md, drawn from the package's own functions: run it after one of these has changed.

pip install ".[eval]"
python docs/figures.py      into docs/images
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from strait.decoding.masking import mask_ratio, num_masked
from strait.randomness import key, uniform

IMAGES = Path(__file__).parent / "images"
TOP, BOTTOM, INK, PAPER = "#00796b", "#e65100", "#263238", "#ffffff"
# Equal figures are equal files: no dates, no random names.
plt.rcParams.update({"svg.hashsalt": "strait", "font.size": 10, "text.color": INK, "savefig.facecolor": PAPER})


def _save(figure: plt.Figure, name: str) -> None:
    figure.savefig(IMAGES / name, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


def _grid(axes: Axes, left: float, low: float, size: float, cells: int, colour: str, known: float = 1.0) -> None:
    """A square of tokens; a share of them, at hashed places, is known."""
    cell = size / cells
    draws = uniform(key(cells, torch.arange(cells * cells)))
    shown = torch.argsort(torch.argsort(draws)) < round(known * cells * cells)
    for index in range(cells * cells):
        row, column = divmod(index, cells)
        fill, strength = (colour, 0.35 + 0.6 * float(draws[index])) if shown[index] else ("#cfd8dc", 0.35)
        axes.add_patch(
            Rectangle(
                (left + column * cell, low + row * cell),
                0.86 * cell,
                0.86 * cell,
                facecolor=fill,
                alpha=strength,
                linewidth=0,
            )
        )


def _box(axes: Axes, left: float, low: float, width: float, height: float, text: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (left, low),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=PAPER,
            edgecolor=colour,
            linewidth=1.6,
        )
    )
    axes.text(left + width / 2, low + height / 2, text, ha="center", va="center", linespacing=1.4, fontsize=9)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, linewidth=1.2))


def _blank(width: float, height: float) -> tuple[plt.Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width * 0.72, height * 0.72))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def _picture(axes: Axes, left: float, low: float, size: float) -> None:
    """Any image: a ground, a hill, a sun."""
    down, right = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    pixels = torch.stack([0.55 + 0.4 * down, 0.75 + 0.1 * down, 0.95 - 0.3 * down], -1)
    pixels[down > 0.62 + 0.18 * torch.sin(6 * right)] = torch.tensor([0.35, 0.55, 0.35])
    pixels[torch.hypot(down - 0.28, right - 0.7) < 0.12] = torch.tensor([0.98, 0.8, 0.3])
    axes.imshow(pixels.numpy(), extent=(left, left + size, low, low + size), interpolation="bilinear")


def pipeline() -> None:
    """Stage 1 above, stage 2 below: section 3 as one picture."""
    figure, axes = _blank(16.8, 8.4)
    axes.text(0, 8.1, "Stage 1: the tokenizer", weight="bold")
    _picture(axes, 0, 5.2, 2.2)
    _arrow(axes, (2.3, 6.3), (3.0, 6.3))
    _box(axes, 3.1, 5.6, 1.6, 1.4, "encoder\nquantizer", INK)
    _arrow(axes, (4.8, 6.6), (5.7, 7.1), TOP)
    _arrow(axes, (4.8, 6.0), (5.7, 5.5), BOTTOM)
    _grid(axes, 5.9, 6.6, 1.2, 4, TOP)
    _grid(axes, 5.9, 4.7, 1.5, 8, BOTTOM)
    axes.text(7.6, 7.2, "top: short and complex\n1 token for 16 x 16 pixels", va="center", color=TOP)
    axes.text(7.6, 5.4, "bottom: long and simple\n1 token for 8 x 8 pixels", va="center", color=BOTTOM)
    _arrow(axes, (11.5, 7.1), (12.3, 6.6), TOP)
    _arrow(axes, (11.5, 5.5), (12.3, 6.0), BOTTOM)
    _box(axes, 12.4, 5.6, 1.4, 1.4, "decoder", INK)
    _arrow(axes, (13.9, 6.3), (14.4, 6.3))
    _picture(axes, 14.5, 5.2, 2.2)

    axes.text(0, 3.9, "Stage 2: two masked transformers", weight="bold")
    _box(axes, 0, 2.4, 1.2, 0.8, "class", INK)
    _arrow(axes, (1.3, 2.8), (1.9, 2.8), TOP)
    _box(axes, 2.0, 2.2, 2.6, 1.2, "top transformer\n18 steps", TOP)
    _arrow(axes, (4.7, 2.8), (5.1, 2.8), TOP)
    for index, known in enumerate((0.0, 0.4, 1.0)):
        _grid(axes, 5.2 + 1.6 * index, 2.2, 1.2, 4, TOP, known)
    _arrow(axes, (0.6, 2.3), (1.9, 0.6), BOTTOM)
    _arrow(axes, (9.0, 2.1), (4.7, 0.8), TOP)
    axes.text(9.8, 1.42, "the finished top\nguides every step", ha="left", va="center", color=TOP, fontsize=9)
    _box(axes, 2.0, -0.2, 2.6, 1.2, "bottom transformer\n6 steps", BOTTOM)
    _arrow(axes, (4.7, 0.2), (5.1, 0.2), BOTTOM)
    for index, known in enumerate((0.0, 0.4, 1.0)):
        _grid(axes, 5.2 + 1.6 * index, -0.5, 1.2, 8, BOTTOM, known)
    _arrow(axes, (9.8, 2.8), (12.3, 1.9), TOP)
    _arrow(axes, (9.8, 0.2), (12.3, 1.2), BOTTOM)
    _box(axes, 12.4, 0.9, 1.4, 1.4, "decoder", INK)
    _arrow(axes, (13.9, 1.6), (14.4, 1.6))
    _picture(axes, 14.5, 0.5, 2.2)
    axes.set(xlim=(-0.1, 16.8), ylim=(-0.6, 8.4))
    _save(figure, "pipeline.svg")


def decoding() -> None:
    """Figure 2: token by token in one order, beside many tokens a step wherever the model is sure."""
    figure, axes = _blank(15.2, 5.6)
    rows = (
        ("autoregressive: one token a step, 16 steps", "#607d8b", (0, 1, 2, 3, 15, 16)),
        ("parallel: more and more tokens a step, 4 steps", TOP, (0, 1, 4, 9, 16)),
    )
    draws = torch.argsort(torch.argsort(uniform(key(16, torch.arange(16)))))
    for row, (title, colour, counts) in enumerate(rows):
        low = 3.2 - 3.2 * row
        axes.text(0, low + 1.75, title, weight="bold", color=colour)
        for place, known in enumerate(counts):
            left = 2.5 * place
            for index in range(16):
                line, column = divmod(index, 4)
                shown = (draws[index] if row else index) < known
                corner = (left + 0.36 * column, low + 0.36 * (3 - line))
                fill = colour if shown else "#cfd8dc"
                alpha = 0.85 if shown else 0.4
                axes.add_patch(Rectangle(corner, 0.31, 0.31, facecolor=fill, alpha=alpha, linewidth=0))
            if place:
                start = (left - 0.95, low + 0.7)
                skipped = counts[place] - counts[place - 1] > 1 and not row
                if skipped:
                    axes.text(left - 0.55, low + 0.62, "...", ha="center", fontsize=12)
                else:
                    _arrow(axes, start, (left - 0.15, low + 0.7), colour)
    axes.set(xlim=(-0.1, 15.2), ylim=(-0.1, 5.4))
    _save(figure, "decoding.svg")


def steps() -> None:
    """How many tokens are known after each of the paper's 18 + 6 steps, by the function that decoding uses."""
    figure, axes = plt.subplots(figsize=(8.4, 3.2))
    first = 0
    for name, length, count, colour in (("top", 256, 18, TOP), ("bottom", 1024, 6, BOTTOM)):
        unknown = [length]
        for step in range(count):
            whole = [torch.tensor([value]) for value in (step, count, length, unknown[-1])]
            unknown.append(int(num_masked("cosine", *whole)))
        shares = [value / length for value in unknown]
        places = list(range(first + 1, first + count + 1))
        axes.bar(places, [1 - share for share in shares[1:]], color=colour, label=f"{name}: known of {length} tokens")
        drawn = [before - after for before, after in pairwise(unknown)]
        for place, share, number in zip(places, shares[1:], drawn, strict=True):
            axes.text(place, 1 - share + 0.02, f"+{number}", ha="center", fontsize=8, color=colour)
        first += count
    axes.set(xlabel="step", ylabel="share that is known", ylim=(0, 1.15), xticks=range(1, 25))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    _save(figure, "steps.svg")


def schedules() -> None:
    """Every mask schedule of Table 10."""
    figure, axes = plt.subplots(figsize=(5.6, 3.2))
    progress = torch.linspace(0, 1, 201, dtype=torch.float64)
    unknown = torch.full_like(progress, 256)
    for name in ("logarithmic", "square_root", "linear", "cosine", "square", "cubic", "exponential"):
        values = mask_ratio(name, progress, unknown)
        axes.plot(
            progress,
            values,
            label=name.replace("_", " "),
            linewidth=2.6 if name == "cosine" else 1.2,
            color=TOP if name == "cosine" else None,
        )
    axes.set(xlabel="progress", ylabel="share still masked", xlim=(0, 1), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, "schedules.svg")


if __name__ == "__main__":
    for draw in (pipeline, decoding, steps, schedules):
        draw()
