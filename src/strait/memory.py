"""How many images can be generated at once: an estimate of what one takes, from the shapes that pass through."""

from __future__ import annotations

from strait.decoding.config import DecodingConfig
from strait.model_config import ModelConfig
from strait.transformer.config import TransformerConfig

_SPARE = 0.8  # of what is free may be planned with: the rest is for what the estimate leaves out


def bytes_an_image(config: ModelConfig, decoding: DecodingConfig, element: int, pixels_at_once: bool) -> int:
    """Memory of one image more in a batch, beside the weights.

    Args:
        config: of the model.
        decoding: steps of as many levels as are decoded, of those that the model has; guidance doubles each.
        element: bytes of a number in the transformers.
        pixels_at_once: whether a batch's pixels are decoded together (on a GPU), or one image after the other.
    """
    networks: list[TransformerConfig | None] = [config.top, config.bottom, config.upsampler, config.upsampler]
    levels = zip(networks, config.grids, config.level_codebook_sizes, decoding.steps, strict=False)
    rows = 2 if decoding.guidance else 1
    largest, seen = 0, 0
    for network, (height, width), codes, _ in levels:
        assert network is not None
        length = height * width
        # Residual, its norm, queries, keys, values and attention; the MLP twice, before and after its activation.
        a_layer = length * (6 * network.width + 2 * network.mlp) * element
        context = seen * 2 * network.width * network.layers * element
        # As they come, in float32, and their guided sum.
        logits = length * codes * (element + (8 if rows == 2 else 4))
        largest = max(largest, rows * (a_layer + context + logits))
        seen += length
    tokenizer, side = config.tokenizer, config.image_size * (2 if len(decoding.steps) > 2 else 1)
    pixels = 4 * side * side * (4 * tokenizer.channels if pixels_at_once else 3)
    return max(largest, pixels)


def fitting_batch(free: int, an_image: int) -> int:
    """How many images fit into free memory (bytes); 0 if not one."""
    return int(_SPARE * free) // an_image
