"""The speed at which a token cache is built, compared with the encoder's forward pass and with this machine's ceiling.

    python benchmarks/token_cache.py --data DIR [--images 256] [--rounds 5]

Each round measures in turns: the ceiling (a product of two matrices), the encoder alone on batches in memory, reading
and cropping the photographs alone, and the cache as `strait train` builds it, from photographs to files. Threads are
torch's; set OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.flop_counter import FlopCounterMode

from strait.config import config_path, read_config
from strait.data.encoding import Encoding, build_token_cache
from strait.data.images import ImageBatch
from strait.data.job import Job
from strait.data.sources import open_images
from strait.model.config import level_names
from strait.model.strait import StraIT
from strait.runs.bench import Machine
from strait.runtime.messages import aligned

BATCH = 64


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--config", default="nature128-cpu", help="its data settings are used, with one variant")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = torch.device("cpu")
    machine = Machine(device, torch.float32)
    model = StraIT.from_pretrained(args.model, device, pack=False)  # as strait train loads it
    tokenizer = model.tokenizer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    data = replace(read_config(config_path(args.config)).data, cache_variants=1)
    encoding = Encoding(
        open_images(args.data, "train"),
        tokenizer.encode,
        level_names(tokenizer.levels),
        model.config.image_size,
        data,
        limit=args.images,
    )

    def batches() -> Iterator[ImageBatch]:
        starts = range(0, args.images, BATCH)
        return (encoding.views.read(encoding.indices[start : start + BATCH], 0) for start in starts)

    photographs = [batch.images(device) for batch in batches()]
    with FlopCounterMode(display=False) as counter:  # with gradients: it does not know oneDNN's own operators
        tokenizer.encoder(photographs[0][:1])
    operations = counter.get_total_flops()

    def cache() -> None:
        with TemporaryDirectory() as folder:
            build_token_cache(Path(folder) / "train", encoding, Job(device))

    rates: dict[str, list[float]] = {"the encoder alone": [], "reading alone": [], "the cache": []}
    ceilings: list[float] = []
    for _ in range(args.rounds):
        ceilings += [machine.product() for _ in range(3)]
        rates["the encoder alone"].append(args.images / seconds(lambda: [*map(encoding.encode, photographs)]))
        rates["reading alone"].append(args.images / seconds(lambda: [*batches()]))
        rates["the cache"].append(args.images / seconds(cache))
    ceiling = statistics.median(ceilings)
    lines = [["", "images a second", "least and most", "of the ceiling", "of the encoder alone"]]
    for name, of_name in rates.items():
        rate = statistics.median(of_name)
        share = "" if name == "reading alone" else f"{rate * operations / ceiling:.2f}"
        to_encoder = f"{rate / statistics.median(rates['the encoder alone']):.2f}"
        lines.append([name, f"{rate:.1f}", f"{min(of_name):.1f} to {max(of_name):.1f}", share, to_encoder])
    print(aligned(lines, right=range(1, 5)))
    speed, cost = f"{ceiling / 1e9:.0f} GFLOP/s", f"{operations / 1e9:.2f} GFLOP"
    print(f"{torch.get_num_threads()} threads; ceiling {speed}; encoder {cost} an image")


if __name__ == "__main__":
    main()
