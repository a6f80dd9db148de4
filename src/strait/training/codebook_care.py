"""Codebooks in training: initialised from data, monitored, dead codes restarted; identical on every process."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from strait.randomness import key
from strait.runtime.ranks import Ranks
from strait.tokenizer.build import TrainableTokenizer
from strait.tokenizer.codebook_health import CodebookHealth
from strait.tokenizer.perplexity import perplexity
from strait.tokenizer.quantizer import Quantized
from strait.training.config import CodebookConfig

_RESTART = 12
_LEVELS = {1: ("tokens",), 2: ("top", "bottom")}


class CodebookCare:
    """Keeps a tokenizer's codebooks in use.

    Args:
        tokenizer: on its device.
        config: when to restart codes.
        seed: determines which features become codes.
        ranks: the processes that share a batch.
        replaced: called with the number of a codebook and a mask of its replaced codes (bool ``[codebook_size]``).
    """

    def __init__(
        self,
        tokenizer: TrainableTokenizer,
        config: CodebookConfig,
        seed: int,
        ranks: Ranks,
        replaced: Callable[[int, Tensor], None],
    ) -> None:
        self.tokenizer, self.config, self.seed, self.ranks, self._replaced = tokenizer, config, seed, ranks, replaced
        shares: list[list[int]] = [[] for _ in tokenizer.codebooks]
        for level in range(tokenizer.levels):
            shares[tokenizer.codebook_index(level)].append(level)
        self._levels_of = shares
        self.health = nn.ModuleList(
            CodebookHealth(len(levels), tokenizer.codebook(levels[0]).weight.shape[0], config.restart_below)
            for levels in shares
        ).to(next(tokenizer.parameters()).device)

    def initialise(self, quantize: Callable[[], list[tuple[Quantized, ...]]]) -> None:
        """Initialise the codes from a batch. ``quantize`` quantizes it, piece by piece; it is called for each
        codebook, since the bottom's features depend on the top's codes."""
        for index, levels in enumerate(self._levels_of):
            pieces = quantize()
            codebook = self.tokenizer.codebook(levels[0])
            draw = key(self.seed, _RESTART, -1)
            self._health(index).initialise(codebook, self._features(pieces, levels), draw, self._pick)
            all_codes = torch.ones(codebook.weight.shape[0], dtype=torch.bool, device=codebook.weight.device)
            self._replaced(index, all_codes)

    @property
    def has_counted(self) -> bool:
        """Whether any use of codes has been counted; until then it is uniform."""
        return any(not bool((health.usage == health.usage[0, 0]).all()) for health in self._healths())

    @torch.no_grad()
    def watch(self, pieces: list[tuple[Quantized, ...]], step: int) -> dict[str, Tensor | float]:
        """Count the codes of a batch and restart dead ones; returns perplexity and usage of each level, and the number
        of restarted codes, for the log."""
        names = _LEVELS[self.tokenizer.levels]
        metrics: dict[str, Tensor | float] = {}
        for index, levels in enumerate(self._levels_of):
            health = self._health(index)
            ids = [torch.cat([piece[level].ids for piece in pieces]) for level in levels]
            counts = health.update(ids, self.ranks.sum)
            codebook_size = health.usage.shape[1]
            for row, level in enumerate(levels):
                metrics[f"perplexity_{names[level]}"] = perplexity(health.usage[row])
                metrics[f"perplexity_batch_{names[level]}"] = perplexity(counts[row])
                used = health.usage[row] * codebook_size > 0.03
                metrics[f"usage_{names[level]}"] = used.float().mean()
            if self.config.restart_below > 0 and step > 0 and step % self.config.restart_every == 0:
                draw = key(self.seed, _RESTART, step, index)
                codebook = self.tokenizer.codebook(levels[0])
                dead = health.restart(codebook, self._features(pieces, levels), draw, self._pick)
                self._replaced(index, dead)
                metrics["restarted"] = metrics.get("restarted", 0.0) + dead.float().sum()
        return metrics

    def _features(self, pieces: list[tuple[Quantized, ...]], levels: list[int]) -> list[Tensor]:
        return [torch.cat([piece[level].features.detach() for piece in pieces]) for level in levels]

    def _health(self, index: int) -> CodebookHealth:
        return cast(CodebookHealth, self.health[index])

    def _healths(self) -> list[CodebookHealth]:
        return [self._health(index) for index in range(len(self.health))]

    def _pick(self, rows: Tensor, places: Tensor) -> Tensor:
        """``rows_at`` over the concatenated rows of all processes: each contributes the rows it holds."""
        count = rows.shape[0]
        numbers = (places * (count * self.ranks.size)).long().clamp(max=count * self.ranks.size - 1)
        local = numbers - self.ranks.rank * count
        is_local = (local >= 0) & (local < count)
        picked = torch.where(is_local[:, None], rows[local.clamp(0, count - 1)], torch.zeros_like(rows[:1]))
        return self.ranks.sum(picked)
