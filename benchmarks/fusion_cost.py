"""What each kind of concrete fusion costs: values, size of the style file, and a step of the UNet beside the bare one.

`python -m benchmarks.fusion_cost`

Forward and backward passes of all kinds are interleaved, so that a busy machine slows all alike; medians are printed.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import torch

from acfun.afun import AFunOptions
from acfun.base import Base, Conditions, encode_prompt, load_base, predict
from acfun.base.image_embeds import encode_style_image
from acfun.cfun import CFunOptions
from acfun.style_model import StyleModel, build_style_model

KINDS = {
    "std_affine": CFunOptions(variant="std_affine", rank=16),
    "mean_std_affine": CFunOptions(variant="mean_std_affine", rank=16),
    "lora": CFunOptions(variant="lora", rank=8),
    "attention_lora": CFunOptions(variant="attention_lora", rank=8),
}
BARE = "the base alone"


def build(base: Base, options: CFunOptions) -> StyleModel:
    """A fresh style of one kind in the base."""
    picture = torch.zeros(1, 3, base.resolution, base.resolution)
    embeds = encode_style_image(base, picture)
    return build_style_model(base, embeds, afun=AFunOptions.for_width(base.text_dim), cfun=options)


def time_step(base: Base, noisy: torch.Tensor, conditions: Conditions, parameters: Sequence[torch.Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    output = predict(base.unet, noisy, torch.tensor(500), conditions)
    torch.autograd.grad(output.square().mean(), parameters)
    return time.perf_counter() - start


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    base = load_base(args.base)
    size = base.unet.config.sample_size
    noisy = torch.randn(args.batch_size, base.unet.config.in_channels, size, size)
    conditions = encode_prompt(base, ["a painting of a person"] * args.batch_size).positive
    seconds, values = defaultdict[str, list[float]](list), {BARE: 0}
    base.unet.requires_grad_(False)
    own = noisy.clone().requires_grad_()
    time_step(base, own, conditions, [own])  # the first pass of a process is slow
    for _ in range(args.rounds):
        seconds[BARE].append(time_step(base, own, conditions, [own]))
        for kind, options in KINDS.items():
            model = build(base, options)
            values[kind] = sum(tensor.numel() for tensor in model.style_tensors().values())
            adapters = [p for name, p in model.named_trainables() if name.startswith("cfun.")]
            seconds[kind].append(time_step(base, noisy, conditions, adapters))
            model.eject()
    print("| kind | values | MB in half precision | seconds of a step | of the base alone |\n|---|---|---|---|---|")
    for kind, times in seconds.items():
        median, bare = statistics.median(times), statistics.median(seconds[BARE])
        print(f"| {kind} | {values[kind]:,} | {2e-6 * values[kind]:.2f} | {median:.3f} | {median / bare:.2f} |")


if __name__ == "__main__":
    main()
