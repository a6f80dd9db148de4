"""Optimizers and learning rates. Source: StraIT Tables 11 and 12, docs/choices.md."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer

from strait.training.config import TokenizerTrainingConfig, TransformerTrainingConfig
from strait.training.distributed import placed


def learning_rate(step: int, peak: float, warmup: int, total: int, schedule: str = "cosine") -> float:
    """The learning rate of a step (from 0): a linear warm-up, then constant or a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def stage1_optimizer(
    model: nn.Module, config: TokenizerTrainingConfig, betas: tuple[float, float] | None = None
) -> Optimizer:
    """Adam as in MaskGIT, or the SGD of Table 11, for the tokenizer and its adversary; ``betas`` override the
    settings'."""
    if config.optimizer == "sgd":
        return SGD(model.parameters(), lr=config.learning_rate)
    return Adam(model.parameters(), lr=config.learning_rate, betas=betas or config.betas, fused=True)


def stage2_optimizer(model: nn.Module, config: TransformerTrainingConfig) -> Optimizer:
    """AdamW, or Muon on the matrices of the transformer's layers."""
    if config.optimizer == "muon":
        return MuonWithAdamW(model, config.learning_rate, config.betas, config.weight_decay)
    return adamw(model, config.learning_rate, config.betas, config.weight_decay)


class MuonWithAdamW(Optimizer):
    """Muon for the matrices of a transformer's layers, AdamW for embeddings, positions and vectors.

    Muon's updates are scaled to the size of AdamW's, so that both share one learning rate and weight decay. Source:
    Jordan et al., Muon (2024); scaled as in Liu et al., Muon is scalable for LLM training (2025).
    """

    def __init__(self, model: nn.Module, rate: float, betas: tuple[float, float], weight_decay: float) -> None:
        matrices = [
            layer.weight for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and "layers." in name
        ]
        in_muon = {id(value) for value in matrices}
        muon = Muon(matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        rest = [value for value in model.parameters() if id(value) not in in_muon]
        self._parts = (muon, AdamW(_decay_groups(rest, weight_decay), lr=rate, betas=betas, fused=True))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part in self._parts:  # both share one state
            part.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for part in self._parts:
            part.step()


def adamw(model: nn.Module, rate: float, betas: tuple[float, float], weight_decay: float) -> Optimizer:
    """AdamW without weight decay on biases, norms and other vectors."""
    return AdamW(_decay_groups(list(model.parameters()), weight_decay), lr=rate, betas=betas, fused=True)


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [value for value in parameters if value.ndim >= 2], "weight_decay": weight_decay},
        {"params": [value for value in parameters if value.ndim < 2], "weight_decay": 0.0},
    ]


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def forget(optimizer: Optimizer, parameter: nn.Parameter, rows: Tensor) -> None:
    """Zero the moments of a parameter's ``rows`` (bool ``[rows]``): those of a dead code do not apply to a new one."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(rows[:, None], 0.0)


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """An optimizer's state by parameter name, for safetensors: ``exp_avg/encoder.conv_in.weight``. Sharded like the
    parameters."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"{key}/{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def load_optimizer_tensors(optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Inverse of ``optimizer_tensors``."""
    parameters = dict(model.named_parameters())
    state: dict[nn.Parameter, dict[str, Any]] = {}
    for full_name, value in tensors.items():
        key, name = full_name.split("/", 1)
        parameter = parameters[name]
        # Copied to fresh memory: results can depend on alignment, and a resumed run must equal an uninterrupted one.
        # A fused optimizer also keeps its step count on the parameter's device.
        like = parameter if value.shape == parameter.shape else value
        fresh = torch.empty_like(like, dtype=value.dtype, device=parameter.device)
        state.setdefault(parameter, {})[key] = fresh.copy_(placed(value, fresh))
    for parameter, values in state.items():
        optimizer.state[parameter] = values
