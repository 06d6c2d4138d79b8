"""What a step of a fit costs beside the recipes of diffusers' `textual_inversion.py` and `train_dreambooth_lora.py`.

`python -m benchmarks.fit_speed --config sd15 --size 512 --rounds 3`

The networks have the family's real shape (`acfun/base/architectures.py`; `tiny` is written down below) and random
weights, which cost what trained ones cost. What a step is, of acfun and of the recipes, stands in
`benchmarks/fit_steps.py`.

All take steps in turn in one process, so that a busy machine slows all alike; the median of the steps is printed, the
first one, which counts operations and bytes, left out. CPU seconds are those that the process was given: on a busy
machine they tell more than the clock, and where the device is the CPU, rates and ratios follow from them. Memory is
that of a method's weights and of the tensors of a step: on CUDA by torch's allocator, elsewhere counted by
`acfun.costs`, without what kernels take for themselves.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from acfun.base import Base
from acfun.base.architectures import Architecture, build_random_base, find_architecture
from acfun.costs import CostMeter
from acfun.devices import has_bfloat16, select_device
from acfun.pipelines import build_pipeline
from benchmarks.fit_steps import PROMPT, Step, fit_with_acfun, invert_text, tune_attention

CONFIGS = {"sd15": "sd1", "sd21": "sd2", "sdxl": "sdxl", "mini": "mini"}
TINY = Architecture(
    family="mini",
    unet={
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
    },
    vae={
        "block_out_channels": (32, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
    text_encoders=({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},),
    image_encoder={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    },
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GUIDANCE_SCALE = 7.5
OWN, OWN_ROWS = "acfun", 2

Method = Callable[[], Any]
"""() → context manager in which a `Step` can be taken."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a step of one method costs.

    Attributes:
        method: its name.
        dtype: of the frozen networks.
        rows: pictures the UNet sees a step.
        seconds: of a step, median.
        cpu_seconds: that the process was given in a step, median; on a GPU those of the host.
        images_per_second: rows by seconds.
        peak_gb: weights and a step's tensors, 10⁹ bytes.
        tflop: operations of a step, 10¹².
        tflop_per_second: achieved.
        ceiling_share: of the dtype's ceiling.
        speedup: how many steps of acfun take as long as one of this method.
    """

    method: str
    dtype: str
    rows: int
    seconds: float
    cpu_seconds: float
    images_per_second: float
    peak_gb: float
    tflop: float
    tflop_per_second: float
    ceiling_share: float
    speedup: float


def measure(
    methods: dict[str, Method], rounds: int, device: torch.device
) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[int, int]]]:
    """Median seconds of each method's steps by clock and CPU, taken in turn; operations and bytes of one step."""
    seconds, costs = defaultdict[str, list[tuple[float, float]]](list), {}
    for index in range(rounds + 1):
        for name, method in methods.items():
            with method() as step:
                if index == 0:
                    costs[name] = count_costs(step, device)
                else:
                    seconds[name].append(time_call(step, device))
    medians = {name: [statistics.median(part) for part in zip(*times, strict=True)] for name, times in seconds.items()}
    return {name: (clock, cpu) for name, (clock, cpu) in medians.items()}, costs


def count_costs(step: Step, device: torch.device) -> tuple[int, int]:
    """Operations of a step, and bytes of the tensors that it makes at its peak."""
    with CostMeter() as meter:
        step()
    if device.type != "cuda":
        return meter.flops, meter.peak
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return meter.flops, torch.cuda.max_memory_allocated(device) - before


def time_call(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds until the device is done, by the clock, and those that the CPU gave to this, by thread."""
    _synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    call()
    _synchronize(device)
    return time.perf_counter() - start, (time.process_time() - cpu_start) / torch.get_num_threads()


def measure_ceiling(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a large product of matrices; of the same as a convolution where that is faster."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    is_cpu = device.type == "cpu"
    images, kernels = left.T.reshape(1, side, -1, 64), right[:, :, None, None]

    def find_best(call: Callable[[], object]) -> float:
        return min(time_call(call, device)[is_cpu] for _ in range(5))

    return 2 * side**3 / min(find_best(lambda: left @ right), find_best(lambda: F.conv2d(images, kernels)))


def sum_bytes(*modules: nn.Module | None) -> int:
    """Bytes of the parameters of modules."""
    return sum(p.numel() * p.element_size() for module in modules if module is not None for p in module.parameters())


def main() -> None:
    """Time and print."""
    args = parse_arguments()
    device = select_device(args.device)
    args.dtype = args.dtype or ("bfloat16" if has_bfloat16(device) else "float32")
    architecture = TINY if args.config == "tiny" else find_architecture(CONFIGS[args.config])
    own = build_random_base(architecture, dtype=DTYPES[args.dtype], device=device, size=args.size)
    whole = build_random_base(architecture, dtype=torch.float32, device=device, size=args.size)
    reference = replace(whole, image_encoder=None)  # the recipes look at no picture with it
    del whole
    if args.channels_last:
        own.unet.to(memory_format=torch.channels_last)
    if args.attention == "xformers":
        own.unet.enable_xformers_memory_efficient_attention()
    optimizers: dict[str, Any] = {}
    with fit_with_acfun(own) as step:
        methods: dict[str, Method] = {
            OWN: lambda: nullcontext(step),
            "textual inversion": lambda: invert_text(reference, args.rows, optimizers),
            "DreamBooth LoRA": lambda: tune_attention(reference, args.rows),
        }
        medians, costs = measure(methods, args.rounds, device)
    ceilings = {name: measure_ceiling(DTYPES[name], device) for name in {args.dtype, "float32"}}
    bases = {name: own if name == OWN else reference for name in methods}
    given = {name: cpu if device.type == "cpu" else clock for name, (clock, cpu) in medians.items()}
    counts = {name: OWN_ROWS if name == OWN else args.rows for name in methods}
    rows = [build_row(name, bases[name], counts[name], medians[name], given, costs[name], ceilings) for name in methods]
    result = {
        "config": args.config,
        "size": own.resolution,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "ceilings_tflop_per_second": {name: ceiling / 1e12 for name, ceiling in ceilings.items()},
        "steps": [asdict(row) for row in rows],
        "sampling_seconds": sample(own, args.sampling_steps, device) if args.sampling_steps else None,
        "sampling_steps": args.sampling_steps,
    }
    print(json.dumps(result, indent=2)) if args.json else show(rows, result)


def build_row(
    method: str,
    base: Base,
    count: int,
    medians: tuple[float, float],
    given: dict[str, float],
    costs: tuple[int, int],
    ceilings: dict[str, float],
) -> Row:
    """What was measured of one method.

    Args:
        method: its name.
        base: what it stands on.
        count: pictures a step.
        medians: seconds of a step by clock and CPU.
        given: those of them that count on this device, of all methods.
        costs: operations and bytes of a step.
        ceilings: operations a second by dtype.
    """
    dtype = str(base.dtype).removeprefix("torch.")
    held = sum_bytes(base.unet, base.vae, base.image_encoder, *base.text_encoders)
    rate = costs[0] / given[method]
    return Row(
        method=method,
        dtype=dtype,
        rows=count,
        seconds=medians[0],
        cpu_seconds=medians[1],
        images_per_second=count / given[method],
        peak_gb=(held + costs[1]) / 1e9,
        tflop=costs[0] / 1e12,
        tflop_per_second=rate / 1e12,
        ceiling_share=rate / ceilings[dtype],
        speedup=given[method] / given[OWN],
    )


def sample(base: Base, num_steps: int, device: torch.device) -> float:
    """Seconds of a picture from noise with classifier-free guidance, after a first one of a single step."""
    pipe = build_pipeline(base)
    pipe.set_progress_bar_config(disable=True)
    pipe(PROMPT, num_inference_steps=1, guidance_scale=GUIDANCE_SCALE)
    return time_call(lambda: pipe(PROMPT, num_inference_steps=num_steps, guidance_scale=GUIDANCE_SCALE), device)[0]


def show(rows: list[Row], result: dict[str, Any]) -> None:
    """The table."""
    ceilings = ", ".join(f"{name} {value:.2f}" for name, value in result["ceilings_tflop_per_second"].items())
    title = f"{result['config']}, {result['size']} px, {result['device']}; ceilings in TFLOP/s: {ceilings}"
    table = Table(title=title)
    for name in (
        "method",
        "dtype",
        "rows",
        "s/step",
        "CPU s",
        "images/s",
        "GB",
        "TFLOP",
        "TFLOP/s",
        "of ceiling",
        "× acfun",
    ):
        table.add_column(name, justify="left" if name in {"method", "dtype"} else "right")
    for row in rows:
        figures = (row.seconds, row.cpu_seconds, row.images_per_second, row.peak_gb, row.tflop, row.tflop_per_second)
        table.add_row(
            row.method,
            row.dtype,
            str(row.rows),
            *(f"{figure:.3g}" for figure in figures),
            f"{row.ceiling_share:.0%}",
            f"{row.speedup:.2f}",
        )
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    if result["sampling_seconds"] is not None:
        console.print(f"sampling, {result['sampling_steps']} steps with guidance: {result['sampling_seconds']:.2f} s")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=[*CONFIGS, "tiny"], default="sd15", help="whose shape the networks have")
    parser.add_argument("--size", type=int, help="of the pictures, pixels; the config's own when left out")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each method")
    parser.add_argument("--rows", type=int, default=OWN_ROWS, help="pictures a step of the recipes")
    parser.add_argument("--sampling-steps", type=int, default=0, help="also paint a picture in so many steps")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of acfun's frozen base; bfloat16 by default where the device computes in it"
    )
    parser.add_argument("--channels-last", action="store_true", help="memory format of acfun's UNet")
    parser.add_argument("--attention", choices=("torch", "xformers"), default="torch", help="of acfun's UNet")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    args = parser.parse_args()
    if args.rows < 1:
        parser.error(f"--rows is {args.rows}: a step sees at least one picture")
    return args


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


if __name__ == "__main__":
    main()
