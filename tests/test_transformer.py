"""Both transformers against a reference in plain loops and float64, the paper's sizes, and what may depend on what."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strait.nn.attention import CrossAttention, SelfAttention
from strait.transformer.bottom import BottomTransformer
from strait.transformer.config import TransformerConfig
from strait.transformer.top import TopTransformer
from strait.types import NULL_LABEL, Canvas, Condition, Grid

TOP_GRID, BOTTOM_GRID = (2, 3), (4, 6)
CODES, CONTEXT_CODES, CLASSES = 7, 5, 3
SMALL = TransformerConfig(layers=2, width=16, mlp=24, heads=4, dropout=0.1)
VARIANTS = [
    dataclasses.replace(SMALL, norm=norm, qk_norm=qk_norm) for norm in ("post", "pre") for qk_norm in (False, True)
]
every_variant = pytest.mark.parametrize("config", VARIANTS, ids=lambda c: f"{c.norm}{'-qk' if c.qk_norm else ''}")


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough, and biases unlike enough, that every part of the network shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = "norm" in name and name.endswith("weight")
        parameter.data.copy_(1 + 0.3 * noise if is_scale else 0.4 * noise)
    return network.eval().requires_grad_(False)


def small_top(config: TransformerConfig = SMALL, grid: Grid = TOP_GRID, codes: int = CONTEXT_CODES) -> TopTransformer:
    return lively(TopTransformer(config, codes, CLASSES, grid))


def small_bottom(
    config: TransformerConfig = SMALL, grid: Grid = BOTTOM_GRID, context_grid: Grid = TOP_GRID
) -> BottomTransformer:
    return lively(BottomTransformer(config, CODES, [CONTEXT_CODES], CLASSES, grid, [context_grid]), seed=1)


def random_canvas(batch: int, grid: Grid, codes: int, seed: int = 0, share: float = 0.5) -> Canvas:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, grid[0] * grid[1])
    return Canvas(
        torch.randint(codes, shape, generator=generator), torch.rand(shape, generator=generator) < share, grid
    )


def random_top_tokens(batch: int, seed: int = 5) -> Tensor:
    return torch.randint(CONTEXT_CODES, (batch, *TOP_GRID), generator=torch.Generator().manual_seed(seed))


# The reference: one image at a time, numpy in float64, attention in plain loops


def reference_attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, heads: int) -> np.ndarray:
    """softmax(q k / sqrt(d)) v, for each head and each query: [length, width] of each."""
    out = np.zeros_like(queries)
    size = queries.shape[1] // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for index in range(len(queries)):
            scores = [
                sum(queries[index, part][d] * row[part][d] for d in range(size)) / math.sqrt(size) for row in keys
            ]
            weights = [math.exp(score - max(scores)) for score in scores]
            for weight, row in zip(weights, values, strict=True):
                out[index, part] += weight / sum(weights) * row[part]
    return out


class Reference:
    """Weights by name, and the network's layers as the paper and MaskGIT describe them."""

    def __init__(self, network: nn.Module, config: TransformerConfig) -> None:
        self.weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
        self.config = config

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return normed * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def heads_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """Each head divided by its root mean square, where queries and keys are normed at all."""
        if not self.config.qk_norm:
            return x
        split = x.reshape(len(x), self.config.heads, -1)
        split = split / np.sqrt((split**2).mean(-1, keepdims=True)) * self.weights[f"{name}.weight"]
        return split.reshape(x.shape)

    def gelu(self, x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def attend(self, x: np.ndarray, name: str, context: np.ndarray | None) -> np.ndarray:
        if context is None:
            queries, keys, values = np.split(self.dense(x, f"{name}.qkv"), 3, axis=-1)
        else:
            queries = self.dense(x, f"{name}.query")
            keys, values = np.split(self.dense(context, f"{name}.key_value"), 2, axis=-1)
        queries = self.heads_norm(queries, f"{name}.query_norm")
        keys = self.heads_norm(keys, f"{name}.key_norm")
        return self.dense(reference_attention(queries, keys, values, self.config.heads), f"{name}.out")

    def layer(self, x: np.ndarray, name: str, context: np.ndarray | None = None) -> np.ndarray:
        branches: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
            ("attention_norm", lambda x: self.attend(x, f"{name}.attention", context)),
            ("mlp_norm", lambda x: self.dense(self.gelu(self.dense(x, f"{name}.mlp_in")), f"{name}.mlp_out")),
        ]
        for norm, branch in branches:
            if self.config.norm == "pre":
                x = x + branch(self.layer_norm(x, f"{name}.{norm}"))
            else:
                x = self.layer_norm(x + branch(x), f"{name}.{norm}")
        return x

    def embed(self, ids: list[int], name: str) -> np.ndarray:
        vectors = self.weights[f"{name}.ids.weight"][ids] + self.weights[f"{name}.positions"]
        return self.layer_norm(vectors, f"{name}.norm")

    def head(self, x: np.ndarray, codes: int) -> np.ndarray:
        if self.config.norm == "pre":
            x = self.layer_norm(x, "norm")
        x = self.layer_norm(self.gelu(self.dense(x, "head.dense")), "head.norm")
        return x @ self.weights["embedding.ids.weight"][:codes].T + self.weights["head.bias"]


def canvas_ids(canvas: Canvas, row: int, codes: int) -> list[int]:
    pairs = zip(canvas.tokens[row].tolist(), canvas.masked[row].tolist(), strict=True)
    return [codes if masked else token for token, masked in pairs]


def class_id(label: int, codes: int) -> int:
    """Codes, then [MASK], then the classes, then the null class."""
    return codes + 1 + (CLASSES if label == NULL_LABEL else label)


@every_variant
def test_top_equals_the_reference(config: TransformerConfig):
    network, labels = small_top(config).double(), torch.tensor([2, NULL_LABEL, 0])
    canvas = random_canvas(3, TOP_GRID, CONTEXT_CODES)
    logits = network.bind(Condition(labels))(canvas).numpy()
    reference = Reference(network, config)
    for row, label in enumerate(labels.tolist()):
        ids = [class_id(label, CONTEXT_CODES), *canvas_ids(canvas, row, CONTEXT_CODES)]
        x = reference.embed(ids, "embedding")
        for index in range(config.layers):
            x = reference.layer(x, f"layers.{index}")
        np.testing.assert_allclose(logits[row], reference.head(x, CONTEXT_CODES)[1:], rtol=1e-8, atol=1e-8)


def test_a_training_pass_gives_the_logits_of_the_masked_tokens_row_by_row():
    labels, top = torch.tensor([2, NULL_LABEL]), random_top_tokens(2)
    cases = (
        (small_top(VARIANTS[0]), Condition(labels), random_canvas(2, TOP_GRID, CONTEXT_CODES)),
        (small_bottom(VARIANTS[0]), Condition(labels, (top,)), random_canvas(2, BOTTOM_GRID, CODES)),
    )
    for network, condition, canvas in cases:
        every = network.bind(condition)(canvas)
        rows = [every[row, place] for row in range(2) for place in range(every.shape[1]) if canvas.masked[row, place]]
        assert 0 < len(rows) < 2 * every.shape[1]
        torch.testing.assert_close(network(condition, canvas), torch.stack(rows), rtol=1e-5, atol=1e-6)


@every_variant
def test_bottom_equals_the_reference(config: TransformerConfig):
    network, labels, top = small_bottom(config).double(), torch.tensor([1, NULL_LABEL]), random_top_tokens(2)
    canvas = random_canvas(2, BOTTOM_GRID, CODES)
    logits = network.bind(Condition(labels, (top,)))(canvas).numpy()
    reference = Reference(network, config)
    for row, label in enumerate(labels.tolist()):
        context = reference.embed([class_id(label, CONTEXT_CODES), *top[row].flatten().tolist()], "contexts.0")
        x = reference.embed(canvas_ids(canvas, row, CODES), "embedding")
        for index in range(config.layers):
            x = reference.layer(x, f"layers.{index}.self_layer")
            x = reference.layer(x, f"layers.{index}.cross_layer", context)
        np.testing.assert_allclose(logits[row], reference.head(x, CODES), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_equals_a_naive_softmax(qk_norm: bool):
    width, heads, generator = 12, 3, torch.Generator().manual_seed(3)
    config = TransformerConfig(1, width, 1, heads, qk_norm=qk_norm)
    x, context = (torch.randn(2, length, width, generator=generator, dtype=torch.float64) for length in (5, 4))
    self_attention = lively(SelfAttention(width, heads, 0.1, qk_norm)).double()
    cross = lively(CrossAttention(width, heads, 0.1, qk_norm)).double()
    for row in range(2):
        for network, out, row_context in (
            (self_attention, self_attention(x)[row], None),
            (cross, cross(x, cross.keys_values(context))[row], context[row].numpy()),
        ):
            nested = nn.ModuleDict({"attention": network})
            expected = Reference(nested, config).attend(x[row].numpy(), "attention", row_context)
            np.testing.assert_allclose(out.numpy(), expected, rtol=1e-10, atol=1e-10)


# The paper's sizes


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_of_the_papers_transformers():
    with torch.device("meta"):
        top = TopTransformer(TransformerConfig(), 8192, 1000, (16, 16))
        bottom_config = TransformerConfig(layers=16, width=768, mlp=4096, heads=24)
        bottom = BottomTransformer(bottom_config, 8192, [8192], 1000, (32, 32), [(16, 16)])
    assert parameters(top) == pytest.approx(499e6, rel=0.01)
    assert parameters(bottom) == pytest.approx(292e6, rel=0.01)


def test_parameters_by_hand():
    width, mlp = SMALL.width, SMALL.mlp
    block = 4 * (width * width + width) + 2 * width * mlp + mlp + width + 2 * 2 * width

    def embedding(rows: int, length: int) -> int:
        return (rows + length) * width + 2 * width

    def head(codes: int) -> int:
        return width * width + width + 2 * width + codes

    top_length, bottom_length = math.prod(TOP_GRID), math.prod(BOTTOM_GRID)
    tables = embedding(CONTEXT_CODES + 1 + CLASSES + 1, top_length + 1)  # codes, [MASK], classes, null; class token
    assert parameters(small_top()) == tables + SMALL.layers * block + head(CONTEXT_CODES)
    assert parameters(small_bottom()) == (
        tables + embedding(CODES + 1, bottom_length) + SMALL.layers * 2 * block + head(CODES)
    )


@pytest.mark.parametrize("network", [TopTransformer, BottomTransformer])
def test_initial_weights_are_a_truncated_normal(network: type[nn.Module]):
    config = TransformerConfig(layers=2, width=64, mlp=128, heads=4, norm="pre", qk_norm=True)
    grids = ((4, 4),) if network is TopTransformer else ((4, 4), [(2, 2)])
    sizes = (50, 10) if network is TopTransformer else (50, [50], 10)
    for name, parameter in network(config, *sizes, *grids).named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            # A normal of 0.02 cut at two standard deviations keeps 0.88 of its spread.
            assert parameter.abs().max() <= 0.04, name
            assert parameter.std().item() == pytest.approx(0.88 * 0.02, rel=0.15), name


# What depends on what


@every_variant
def test_top_depends_on_the_class_and_on_every_known_token(config: TransformerConfig):
    network, canvas = small_top(config), random_canvas(1, TOP_GRID, CONTEXT_CODES, share=0.0)
    by_label = [network.bind(Condition(torch.tensor([label])))(canvas) for label in (0, 1, 2, NULL_LABEL)]
    for index, logits in enumerate(by_label):
        for later_logits in by_label[index + 1 :]:
            assert not torch.allclose(logits, later_logits, atol=1e-3)
    for place in range(canvas.tokens.shape[1]):
        tokens = canvas.tokens.clone()
        tokens[0, place] = (tokens[0, place] + 1) % CONTEXT_CODES
        changed = network.bind(Condition(torch.tensor([0])))(dataclasses.replace(canvas, tokens=tokens))
        assert not torch.allclose(changed, by_label[0], atol=1e-3), place


@every_variant
def test_bottom_depends_on_the_class_and_on_every_top_token(config: TransformerConfig):
    network, canvas, top = small_bottom(config), Canvas.blank(1, BOTTOM_GRID), random_top_tokens(1)
    by_label = [network.bind(Condition(torch.tensor([label]), (top,)))(canvas) for label in (0, 1, 2, NULL_LABEL)]
    for index, logits in enumerate(by_label):
        for later_logits in by_label[index + 1 :]:
            assert not torch.allclose(logits, later_logits, atol=1e-3)
    for place in range(math.prod(TOP_GRID)):
        other_top = top.flatten(1).clone()
        other_top[0, place] = (other_top[0, place] + 1) % CONTEXT_CODES
        changed = network.bind(Condition(torch.tensor([0]), (other_top.view(1, *TOP_GRID),)))(canvas)
        assert not torch.allclose(changed, by_label[0], atol=1e-3), place


def networks() -> list[tuple[nn.Module, Canvas, Condition]]:
    """Either transformer, a half known canvas and a condition, a batch of four."""
    labels = torch.tensor([0, 2, 1, NULL_LABEL])
    return [
        (small_top(), random_canvas(4, TOP_GRID, CONTEXT_CODES), Condition(labels)),
        (small_bottom(), random_canvas(4, BOTTOM_GRID, CODES), Condition(labels, (random_top_tokens(4),))),
    ]


either = pytest.mark.parametrize(("network", "canvas", "condition"), networks(), ids=["top", "bottom"])


@either
def test_null_class_is_the_label_minus_one(network: nn.Module, canvas: Canvas, condition: Condition):
    without = condition.without_label()
    assert without.labels.tolist() == [-1] * 4
    assert without.context is condition.context
    logits, unconditional = network.bind(condition)(canvas), network.bind(without)(canvas)
    torch.testing.assert_close(logits[3], unconditional[3])
    for row in range(3):
        assert not torch.allclose(logits[row], unconditional[row], atol=1e-3)


def test_an_unconditional_model_knows_the_null_class_alone():
    network = lively(TopTransformer(SMALL, CONTEXT_CODES, 0, TOP_GRID))
    canvas, condition = random_canvas(2, TOP_GRID, CONTEXT_CODES), Condition(torch.tensor([NULL_LABEL] * 2))
    logits = network.bind(condition)(canvas)
    network.embedding.ids.weight[CONTEXT_CODES + 1] *= -1
    assert network.embedding.ids.num_embeddings == CONTEXT_CODES + 2
    assert not torch.allclose(network.bind(condition)(canvas), logits, atol=1e-3)


@either
def test_hidden_tokens_never_get_in(network: nn.Module, canvas: Canvas, condition: Condition):
    hidden = torch.where(canvas.masked, 10**6, canvas.tokens)
    same = network.bind(condition)(dataclasses.replace(canvas, tokens=hidden))
    assert torch.equal(same, network.bind(condition)(canvas))


def test_only_codes_can_be_predicted_and_the_head_is_tied_to_their_embedding():
    for network, canvas, condition in networks():
        assert network.bind(condition)(canvas).shape == (*canvas.tokens.shape, network.codebook_size)
        # Every token known and none of them code 0: neither [MASK] nor code 0 is an input.
        known_canvas = Canvas(canvas.tokens.clamp(min=1), torch.zeros_like(canvas.masked), canvas.grid)
        logits, table = network.bind(condition)(known_canvas), network.embedding.ids.weight
        hidden_logits = network.bind(condition)(canvas)
        table[network.codebook_size] *= -1
        assert not torch.allclose(network.bind(condition)(canvas), hidden_logits, atol=1e-3)
        assert torch.equal(network.bind(condition)(known_canvas), logits)
        table[0] *= -1
        changed = network.bind(condition)(known_canvas)
        assert not torch.allclose(changed[..., 0], logits[..., 0], atol=1e-3)
        torch.testing.assert_close(changed[..., 1:], logits[..., 1:])


@either
def test_positions_select_rows(network: nn.Module, canvas: Canvas, condition: Condition):
    logits_of = network.bind(condition)
    positions = torch.tensor([[0, 3, 5], [5, 4, 3], [1, 1, 2], [2, 0, 4]])
    everywhere, some = logits_of(canvas), logits_of(canvas, positions)
    assert some.shape == (4, 3, network.codebook_size)
    for row in range(4):
        torch.testing.assert_close(some[row], everywhere[row, positions[row]])


@either
def test_rows_do_not_see_each_other(network: nn.Module, canvas: Canvas, condition: Condition):
    together = network.bind(condition)(canvas)
    for row in range(4):
        row_slice = slice(row, row + 1)
        of_row = Condition(condition.labels[row_slice], tuple(grid[row_slice] for grid in condition.context))
        alone = network.bind(of_row)(Canvas(canvas.tokens[row_slice], canvas.masked[row_slice], canvas.grid))
        torch.testing.assert_close(alone[0], together[row])


@either
def test_dropout_acts_in_training_alone(network: nn.Module, canvas: Canvas, condition: Condition):
    assert torch.equal(network.bind(condition)(canvas), network.bind(condition)(canvas))
    network.train()
    first, second = network.bind(condition)(canvas), network.bind(condition)(canvas)
    network.eval()
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("network_type", [SelfAttention, CrossAttention])
def test_attention_dropout_acts_in_training_alone(network_type: type[SelfAttention] | type[CrossAttention]):
    network = lively(network_type(8, 2, 0.5, False))
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    arguments = (x,) if isinstance(network, SelfAttention) else (x, network.keys_values(x))
    assert torch.equal(network(*arguments), network(*arguments))
    network.train()
    assert not torch.equal(network(*arguments), network(*arguments))


def test_every_parameter_of_either_transformer_is_trained():
    for network, canvas, condition in networks():
        network.requires_grad_()
        network(condition, canvas).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            # A shift of all keys moves every score of a query alike, which softmax does not see.
            if not name.endswith(("qkv.bias", "key_value.bias")):
                assert parameter.grad.abs().max() > 0, name


# Once for all steps, and what is refused


def test_keys_and_values_of_the_context_are_computed_when_binding(monkeypatch: pytest.MonkeyPatch):
    network, calls, original = small_bottom(), [], CrossAttention.keys_values

    def counted(self: CrossAttention, context: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(context.shape)
        return original(self, context)

    monkeypatch.setattr(CrossAttention, "keys_values", counted)
    condition = Condition(torch.tensor([0, 1]), (random_top_tokens(2),))
    logits_of = network.bind(condition)
    assert calls == [(2, 1 + math.prod(TOP_GRID), SMALL.width)] * SMALL.layers
    for seed in range(3):
        canvas = random_canvas(2, BOTTOM_GRID, CODES, seed)
        bound = logits_of(canvas)
        assert len(calls) == SMALL.layers * (1 + seed)
        assert torch.equal(bound, network.bind(condition)(canvas))


def test_bottom_refuses_a_condition_without_its_top_tokens():
    network, labels = small_bottom(), torch.tensor([0])
    with pytest.raises(ValueError, match=r"condition.context: .*\[\].*\(2, 3\)"):
        network.bind(Condition(labels))
    with pytest.raises(ValueError, match=r"condition.context: .*\(3, 2\).*\(2, 3\)"):
        network.bind(Condition(labels, (torch.zeros(1, 3, 2, dtype=torch.int64),)))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"layers": 0}, "layers"),
        ({"width": 0}, "width"),
        ({"mlp": -1}, "mlp"),
        ({"heads": 0}, "heads"),
        ({"width": 10, "heads": 4}, "heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_config_refuses_what_cannot_be_built(settings: dict[str, float], named: str):
    with pytest.raises(ValueError, match=f"transformer.{named}"):
        TransformerConfig(**settings)
