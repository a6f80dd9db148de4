"""What training is made of: averaged weights, optimizers that come back bit for bit, learning rates and the log."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from strait.runs.preview import spread
from strait.runtime.files import write_tensors
from strait.runtime.ranks import ALONE
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.codebook_care import CodebookCare
from strait.training.config import (
    AdversarialConfig,
    CodebookConfig,
    RunConfig,
    TokenizerTrainingConfig,
    TransformerTrainingConfig,
)
from strait.training.ema import ExponentialMovingAverage
from strait.training.optimizer import (
    forget,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    stage1_optimizer,
    stage2_optimizer,
)
from strait.training.tracking import Tracker


def make_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


# Averaged weights.


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_step_by_step(decay: float) -> None:
    network = nn.Linear(3, 2)
    average = ExponentialMovingAverage(network, decay)
    draw = np.random.default_rng(0)
    expected = network.weight.detach().numpy().astype(np.float64)
    for step in range(40):
        weights = draw.normal(size=(2, 3))
        with torch.no_grad():
            network.weight.copy_(torch.from_numpy(weights))
        average.update(step)
        share = 1 - min(decay, (1 + step) / (10 + step))
        expected = expected + share * (weights - expected)
        np.testing.assert_allclose(average.average["weight"], expected, atol=1e-5)


def test_the_random_start_is_soon_forgotten() -> None:
    network = nn.Linear(2, 1, bias=False)
    average = ExponentialMovingAverage(network, 0.999)
    with torch.no_grad():
        average.average["weight"].fill_(1000)
        network.weight.fill_(0)
    for step in range(50):
        average.update(step)
    assert float(average.average["weight"].max()) < 0.01  # a plain average would stand at 951


def test_the_average_is_kept_in_full_precision() -> None:
    network = nn.Linear(4, 4).bfloat16()
    average = ExponentialMovingAverage(network, 0.9999)
    assert all(value.dtype == torch.float32 for value in average.average.values())
    with torch.no_grad():
        network.weight.fill_(1)
        average.average["weight"].fill_(1.001)
    average.update(10**9)
    np.testing.assert_allclose(average.average["weight"], 1.001 - 0.0001 * 0.001, atol=1e-7)


def test_averaged_weights_are_lent_and_taken_back() -> None:
    network = make_network()
    average = ExponentialMovingAverage(network, 0.9)
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    for value in average.average.values():
        value.add_(1)

    def stands(values: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(value, values[name]) for name, value in network.named_parameters())

    parameters = list(network.parameters())
    with average.applied() as lent:
        assert lent is network
        assert stands(average.average)
    assert stands(weights)
    with pytest.raises(KeyError, match="inside"), average.applied():
        raise KeyError("inside")
    assert stands(weights)
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))


# Learning rates.


def test_the_learning_rate_at_known_steps() -> None:
    def cosine(step: int) -> float:
        return learning_rate(step, peak=2.0, warmup=10, total=110)

    assert [cosine(step) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert cosine(10) == 2.0
    assert cosine(60) == pytest.approx(1.0)
    assert cosine(35) == pytest.approx(1 + math.sqrt(0.5))
    assert cosine(109) == pytest.approx(0, abs=1e-3)
    assert cosine(110) == cosine(500) == pytest.approx(0)
    assert learning_rate(0, 2.0, 0, 100) == 2.0
    assert [learning_rate(step, 2.0, 4, 100, "constant") for step in (0, 3, 4, 99, 1000)] == [0.5, 2, 2, 2, 2]


@given(
    step=st.integers(0, 300),
    warmup=st.integers(0, 100),
    total=st.integers(1, 250),
    schedule=st.sampled_from(["cosine", "constant"]),
)
def test_the_learning_rate_rises_then_falls(step: int, warmup: int, total: int, schedule: str) -> None:
    now, then = (learning_rate(at, 1e-3, warmup, total, schedule) for at in (step, step + 1))
    assert 0 <= now <= 1e-3
    if step + 1 < warmup:
        assert then - now == pytest.approx(1e-3 / warmup)
    elif step >= warmup:
        assert then <= now


# Optimizers.


def test_stage_1_is_adam_or_the_tables_sgd() -> None:
    network = make_network()
    adam = stage1_optimizer(network, TokenizerTrainingConfig(learning_rate=3e-4))
    assert type(adam) is Adam
    assert adam.defaults["betas"] == (0.0, 0.99)
    sgd = stage1_optimizer(network, TokenizerTrainingConfig(optimizer="sgd", learning_rate=0.5))
    assert type(sgd) is SGD
    before = network[0].weight.detach().clone()
    network(torch.ones(1, 6)).sum().backward()
    sgd.step()
    torch.testing.assert_close(network[0].weight.detach(), before - 0.5 * network[0].weight.grad)


def test_only_matrices_decay() -> None:
    network = make_network()
    optimizer = stage2_optimizer(network, TransformerTrainingConfig(learning_rate=0.1, weight_decay=0.25))
    assert type(optimizer) is AdamW
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for value in network.parameters():
        value.grad = torch.zeros_like(value)  # nothing to learn: what moves is decay alone
    optimizer.step()
    for name, value in network.named_parameters():
        kept = 1 - 0.1 * 0.25 if value.ndim == 2 else 1
        torch.testing.assert_close(value.detach(), kept * before[name])


def test_a_rate_is_set_for_every_group() -> None:
    optimizer = stage2_optimizer(make_network(), TransformerTrainingConfig())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


class Layered(nn.Module):
    """A network with an embedding and a stack of layers, as the transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(6, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 12), nn.Linear(12, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](self.layers[0](self.inlet(x)).tanh())


def test_muon_takes_orthogonal_steps_of_adamws_size_and_adamw_the_rest() -> None:
    torch.manual_seed(0)
    network, twin = Layered(), Layered()
    twin.load_state_dict(network.state_dict())
    settings = TransformerTrainingConfig(learning_rate=1e-2, weight_decay=0.0)
    muon = stage2_optimizer(network, dataclasses.replace(settings, optimizer="muon"))
    plain = stage2_optimizer(twin, settings)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for value, twin_value in zip(network.parameters(), twin.parameters(), strict=True):
        value.grad = torch.randn_like(value)
        twin_value.grad = value.grad.clone()
    muon.step()
    plain.step()
    for (name, value), twin_value in zip(network.named_parameters(), twin.parameters(), strict=True):
        step = (before[name] - value).detach()
        if name not in ("layers.0.weight", "layers.1.weight"):
            assert torch.equal(value, twin_value), name
            continue
        assert value.grad is not None
        u, _, v = torch.linalg.svd(value.grad, full_matrices=False)
        orthogonal = u @ v
        # Newton-Schulz in five rounds leaves singular values between 0.6 and 1.3; times 0.2 sqrt(longer side).
        sizes = torch.linalg.svdvals(step) / (1e-2 * 0.2 * math.sqrt(max(step.shape)))
        assert ((sizes > 0.6) & (sizes < 1.3)).all(), (name, sizes)
        cosine = (step * orthogonal).sum() / (step.norm() * orthogonal.norm())
        assert cosine > 0.9, (name, cosine)


def make_optimizer(kind: str, network: nn.Module) -> Optimizer:
    if kind == "muon":
        return stage2_optimizer(network, TransformerTrainingConfig(learning_rate=1e-2, optimizer="muon"))
    if kind == "stage 2":
        return stage2_optimizer(network, TransformerTrainingConfig(learning_rate=1e-2))
    choice: Literal["adam", "sgd"] = "sgd" if kind == "sgd" else "adam"
    return stage1_optimizer(network, TokenizerTrainingConfig(optimizer=choice, learning_rate=1e-2))


def take_steps(network: nn.Module, optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)).to(next(network.parameters()).device)
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", ["adam", "sgd", "stage 2", "muon"])
def test_an_optimizer_goes_through_a_file_and_on_bit_for_bit(kind: str, device: str, tmp_path: Path) -> None:
    make = Layered if kind == "muon" else make_network
    whole = make().to(device)
    optimizer = make_optimizer(kind, whole)
    take_steps(whole, optimizer, 0, 5)
    tensors = {f"optimizer/{name}": value for name, value in optimizer_tensors(optimizer, whole).items()}
    write_tensors(tmp_path / "state.safetensors", {**tensors, **whole.state_dict()})
    take_steps(whole, optimizer, 5, 12)

    stored = load_file(str(tmp_path / "state.safetensors"))
    torch.manual_seed(99)
    resumed = make().to(device)
    resumed.load_state_dict({name: value for name, value in stored.items() if not name.startswith("optimizer/")})
    resumed_optimizer = make_optimizer(kind, resumed)
    moments = {name.removeprefix("optimizer/"): v for name, v in stored.items() if name.startswith("optimizer/")}
    load_optimizer_tensors(resumed_optimizer, resumed, moments)
    take_steps(resumed, resumed_optimizer, 5, 12)
    for first, second in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)
    if kind != "sgd":
        assert ("momentum_buffer/layers.1.weight" if kind == "muon" else "exp_avg_sq/3.weight") in moments
        # Without the moments it would have gone another way: the test can fail.
        lost = make().to(device)
        lost.load_state_dict({name: value for name, value in stored.items() if not name.startswith("optimizer/")})
        take_steps(lost, make_optimizer(kind, lost), 5, 12)
        assert not torch.equal(next(lost.parameters()), next(whole.parameters()))


def test_what_is_loaded_is_not_shared() -> None:
    network = make_network()
    optimizer = make_optimizer("adam", network)
    take_steps(network, optimizer, 0, 2)
    tensors = {name: value.clone() for name, value in optimizer_tensors(optimizer, network).items()}
    kept = {name: value.clone() for name, value in tensors.items()}
    load_optimizer_tensors(optimizer, network, tensors)
    take_steps(network, optimizer, 2, 4)
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)


def test_moments_of_chosen_rows_are_forgotten() -> None:
    network = make_network()
    optimizer = make_optimizer("adam", network)
    weight = network[0].weight
    rows = torch.tensor([True, False] * 4)
    forget(optimizer, weight, rows)  # before the first step there is nothing to forget
    take_steps(network, optimizer, 0, 3)
    before = {key: value.clone() for key, value in optimizer.state[weight].items()}
    others = {key: value.clone() for key, value in optimizer.state[network[3].weight].items()}
    forget(optimizer, weight, rows)
    for key, value in optimizer.state[weight].items():
        if value.shape == weight.shape:
            assert not value[rows].any()
            assert torch.equal(value[~rows], before[key][~rows])
            assert before[key][rows].any() or key == "exp_avg"
        else:
            assert torch.equal(value, before[key])
    assert all(torch.equal(value, others[key]) for key, value in optimizer.state[network[3].weight].items())


# The log.


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_line_is_the_mean_since_the_last(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, every=3, step=0, notes={})
    written = []
    for step, loss in enumerate([1.0, 2.0, 6.0, 10.0, 20.0, 60.0, 5.0], start=1):
        tensor = torch.tensor(loss, requires_grad=True)
        written.append(tracker.add(step, {"loss": tensor, "float": loss, "accuracy": (loss, torch.tensor(2 * loss))}))
    assert written == [False, False, True, False, False, True, False]
    assert lines(tmp_path) == [
        {"step": 3, "loss": 3.0, "float": 3.0, "accuracy": 0.5},
        {"step": 6, "loss": 30.0, "float": 30.0, "accuracy": 0.5},
    ]
    assert tracker.latest == {"loss": 30.0, "float": 30.0, "accuracy": 0.5}


def test_a_pair_is_divided_at_the_end(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, every=2, step=0, notes={})
    tracker.add(1, {"accuracy": (torch.tensor(1.0), torch.tensor(1.0)), "empty": (0.0, 0.0)})
    tracker.add(2, {"accuracy": (torch.tensor(0.0), torch.tensor(3.0)), "empty": (0.0, 0.0), "rare": 7.0})
    # A quarter, not the mean of 1 and 0; what was never weighed is left out, what came once counts once.
    assert lines(tmp_path) == [{"step": 2, "accuracy": 0.25, "rare": 7.0}]


@pytest.mark.parametrize("kill", range(1, 10))
@pytest.mark.parametrize("saved", [0, 1, 3, 4, 7])
def test_a_resumed_log_is_the_uninterrupted_one(tmp_path: Path, saved: int, kill: int) -> None:
    def loss(step: int) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(math.sin(step))}

    whole = Tracker(tmp_path / "whole", every=3, step=0, notes={})
    for step in range(1, 13):
        whole.add(step, loss(step))

    first = Tracker(tmp_path / "resumed", every=3, step=0, notes={})
    notes = first.notes()
    for step in range(1, max(saved, kill) + 1):
        first.add(step, loss(step))
        if step == saved:
            notes = json.loads(json.dumps(first.notes()))
    second = Tracker(tmp_path / "resumed", every=3, step=saved, notes=notes)
    for step in range(saved + 1, 13):
        second.add(step, loss(step))
    assert (tmp_path / "resumed" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "lo')
    tracker = Tracker(tmp_path, every=2, step=2, notes={})
    tracker.add(3, {"loss": 1.0})
    tracker.add(4, {"loss": 3.0})
    assert lines(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 2.0}]


def test_tensorboard_gets_the_same_values(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(tmp_path, every=1, step=0, notes={})
    for step in (1, 2):
        tracker.add(step, {"loss": step * 1.5})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.5), (2, 3.0)]
    # Resumed from step 1: the second is taken again, and the first one's value of it is seen no more.
    resumed = Tracker(tmp_path, every=1, step=1, notes={})
    resumed.add(2, {"loss": 7.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.5), (2, 7.0)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("picture", [False, True])
def test_a_log_that_cannot_be_written_is_named_and_nothing_else_is_said(tmp_path: Path, picture: bool) -> None:
    """In a process whose files may have 4,000 bytes, as on a disk that is filling up."""
    import resource

    if picture:
        pytest.importorskip("tensorboard")
    reason, output = tmp_path / "reason", tmp_path / "said"
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 2)
            tracker = Tracker(tmp_path / "runs", every=1, step=0, notes={})
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
            noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
            for step in range(1, 1000):
                tracker.add_picture(step, Image.fromarray(noise)) if picture else tracker.add(step, {"loss": 1.0})
        except OSError as error:
            reason.write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert reason.read_text().startswith(f"[Errno 27] File too large: '{tmp_path / 'runs'}/")
    assert any(name in reason.read_text() for name in (("events.out",) if picture else ("events.out", "log.jsonl")))
    assert output.read_text() == ""


# Codebooks.


def test_the_log_counts_the_restarted_codes_of_both_codebooks() -> None:
    torch.manual_seed(0)
    tokenizer = StratifiedTokenizer(
        TokenizerConfig(
            channels=8,
            multipliers=(1, 1, 2),
            res_blocks=1,
            stem_blocks=1,
            codebook_size=24,
            bottom_codebook_size=40,
            code_dim=4,
        )
    )
    replaced: dict[int, int] = {}
    config = CodebookConfig(restart_below=0.97, restart_every=1)  # a code that one batch does not use is dead
    care = CodebookCare(tokenizer, config, 0, ALONE, lambda index, rows: replaced.update({index: int(rows.sum())}))
    metrics = care.watch([tokenizer(torch.rand(2, 3, 16, 16) * 2 - 1).levels], step=1)
    assert sorted(replaced) == [0, 1]
    assert min(replaced.values()) > 0
    assert metrics["restarted"] == sum(replaced.values())


# Sample grids.


def test_a_grid_shows_each_image_once() -> None:
    assert spread(3) == [0, 1, 2]
    assert spread(16) == [0, 2, 4, 6, 8, 10, 12, 14]


# Settings.


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        (RunConfig, {"keep_checkpoints": 0}, "run.keep_checkpoints"),
        (RunConfig, {"log_every": 0}, "run.log_every"),
        (RunConfig, {"sample_every": -1}, "run.sample_every"),
        (AdversarialConfig, {"r1_every": 0}, "adversarial.r1_every"),
        (AdversarialConfig, {"weight": -0.1}, "adversarial.weight"),
        (CodebookConfig, {"restart_every": 0}, "codebook.restart_every"),
        (TokenizerTrainingConfig, {"steps": 0}, "tokenizer_training.steps"),
        (TokenizerTrainingConfig, {"bottom_dropout": 1.0}, "bottom_dropout"),
        (TransformerTrainingConfig, {"batch_size": 0}, "training.batch_size"),
        (TransformerTrainingConfig, {"label_drop_rate": 1.5}, "label_drop_rate"),
        (TransformerTrainingConfig, {"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_settings_that_cannot_be_are_named(kind: type, settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        kind(**settings)
