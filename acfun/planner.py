"""How much memory and time a fit will take, counted before it starts, and which measures make it fit.

A step, and what comes before the steps, is run on device "meta": all shapes, no values. Counted are weights, AdamW's
moments and all tensors alive at a time, as torch's allocator would have them; left out are what kernels take for
themselves and CUDA's own context (`RESERVE` of a card is kept free for them).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import get_max_memory
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from acfun.base import Base, encode_ids, tokenize_all
from acfun.base import predict as predict_noise
from acfun.base.architectures import Architecture, build_random_base, describe_architecture
from acfun.base.families import FAMILIES
from acfun.base.loading import choose_dtype
from acfun.base.vae_features import decode_latents, encode_features, encode_latents
from acfun.config import FitConfig
from acfun.costs import CostMeter
from acfun.errors import ConfigError
from acfun.fit_data import CROPS_AT_ONCE
from acfun.fit_setup import MEASURES, Measures, build_model, find_streamed, list_measures, set_up
from acfun.imagery import TERMS
from acfun.objectives import OBJECTIVES
from acfun.portrait import MAX_ASPECT

GB = 10**9
TIERS = {"24gb": 24 * GB, "12gb": 12 * GB, "8gb": 8 * GB, "6gb": 6 * GB}
RESERVE = GB // 2
META = torch.device("meta")
# What comparing pictures and cutting crops takes, in all and per pixel: it does not depend on the base, and bounds what
# `CostMeter` counted in `prepare` at 32, 256 and 512 px beyond the base's own share.
IMAGERY_BYTES, IMAGERY_BYTES_PER_PIXEL = 16_000_000, 1100
# Likewise what is known of a painted face; and patches, while those of the finest scale are cut, per pixel of what they
# are of: counted were 1840 at 256 and 1890 at 512 px, and the larger the picture, the smaller is its edge without any.
REGION_BYTES, PATCH_BYTES_PER_PIXEL = 18_000_000, 2100
RATE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a fit with some measures needs.

    Attributes:
        measures: what is done for memory.
        prepare_bytes: the most that is alive before the steps, when pictures are encoded and pairs painted.
        step_bytes: likewise in a step.
        step_flops: operations of a step.
    """

    measures: Measures
    prepare_bytes: int
    step_bytes: int
    step_flops: int

    @property
    def peak_bytes(self) -> int:
        """The most that is alive at a time."""
        return max(self.prepare_bytes, self.step_bytes)


def plan_tiers(architecture: Architecture, config: FitConfig, device: torch.device) -> dict[str, Plan | None]:
    """The fastest plan for cards of each size, and for "auto" that for a device with what it has free now.

    Args:
        architecture: of the base.
        config: of the fit; its `memory` does not count.
        device: its dtype is taken.

    Returns:
        By tier, None where nothing fits.
    """
    dtype = choose_dtype(FAMILIES[architecture.family], device)
    plans = [predict(architecture, config, measures, dtype=dtype, device=torch.device("cuda")) for measures in MEASURES]
    tiers = {tier: _find_first(plans, budget) for tier, budget in TIERS.items()}
    own = (predict(architecture, config, measures, dtype=dtype, device=device) for measures in list_measures(device))
    return tiers | {"auto": _find_first(own, find_free_memory(device))}


def _find_first(plans: Iterable[Plan], budget: int) -> Plan | None:
    return next((plan for plan in plans if plan.peak_bytes <= budget - RESERVE), None)


def choose_plan(config: FitConfig, base: Base) -> Plan | None:
    """The plan for a loaded base; None where there is nothing to plan: a small base fits everywhere, as do no steps.

    Raises:
        ConfigError: no measures make the fit small enough.
    """
    if not config.max_steps or (config.memory == "auto" and not FAMILIES[base.family].is_large):
        return None
    held = sum(_sum_bytes(module) for module in (base.unet, base.vae, base.image_encoder, *base.text_encoders))
    budget = find_free_memory(base.device) + held if config.memory == "auto" else TIERS[config.memory]
    architecture = describe_architecture(base)
    tried = []
    for measures in list_measures(base.device):
        tried.append(predict(architecture, config, measures, dtype=base.dtype, device=base.device))
        if _find_first(tried[-1:], budget) is not None:
            return tried[-1]
    raise ConfigError(
        f"this fit needs {tried[-1].peak_bytes / GB:.1f} GB, and memory is {config.memory!r}: {budget / GB:.1f} GB, of "
        f"which {RESERVE / GB} are kept free; use a smaller base, a batch_size below {config.batch_size}, or "
        "device 'cpu'"
    )


def find_free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    free = get_max_memory()
    return int(free.get(device.index or 0 if device.type == "cuda" else device.type, free["cpu"]))


def predict(
    architecture: Architecture, config: FitConfig, measures: Measures, *, dtype: torch.dtype, device: torch.device
) -> Plan:
    """Count what a fit needs, without weights.

    Args:
        architecture: of the base.
        config: of the fit.
        measures: what is done for memory.
        dtype: of the base.
        device: where it will compute.
    """
    with torch.random.fork_rng(devices=[]):
        base = build_random_base(architecture, dtype=dtype, device=META)
        for module in (base.unet, base.vae):
            module.set_attn_processor(_FusedAttention())
        with set_up(base, measures, device):
            return Plan(
                measures=measures,
                prepare_bytes=_count_preparation(base, config, measures),
                **_count_step(base, config, measures),
            )


def describe_plan(plan: Plan, config: FitConfig, rate: float) -> str:
    """A line: what is done for memory, how much the fit takes, and how long.

    Args:
        plan: of the fit.
        config: of the fit.
        rate: of `measure_rate`.
    """
    seconds = plan.step_flops / rate
    return (
        f"memory: {plan.measures.name}, {plan.peak_bytes / GB:.1f} GB at most; {config.max_steps} steps of about "
        f"{seconds:.2g} s take {config.max_steps * seconds / 60:.2g} min"
    )


def _count_preparation(base: Base, config: FitConfig, measures: Measures) -> int:
    size = base.resolution
    kept = [] if measures.rests else [base.image_encoder]
    held = _sum_held(base, measures) + sum(_sum_bytes(module) for module in (base.vae, *kept))
    pixels = torch.empty(CROPS_AT_ONCE, 3, size, size, device=META)
    with CostMeter() as encoding:
        latents = encode_latents(base.vae, pixels)
    latents = latents[:1].requires_grad_()
    with CostMeter() as guiding:
        decode_latents(base.vae, latents).sum().backward()
    sampling = 0 if config.face_paths else _count_sampling(base, 2 * config.num_sampled_faces)
    # A painting as long as it may be, and where it has a face, its head beside it.
    has_face = config.framing == "find"
    num_pictures = MAX_ASPECT + has_face if "pair" in config.loss_weights() else 0
    patches = IMAGERY_BYTES + PATCH_BYTES_PER_PIXEL * num_pictures * size * size
    regions = REGION_BYTES if has_face else 0
    peak: int = max(max(encoding.peak, guiding.peak, sampling) + _predict_imagery(size), patches)
    return held + regions + peak


def _count_sampling(base: Base, rows: int) -> int:
    size, channels = base.unet.config.sample_size, base.unet.config.in_channels
    with torch.no_grad(), CostMeter() as meter:
        with _FuseAttention():  # of the text encoders
            conditions = encode_ids(base, tokenize_all(base.tokenizers, [""] * rows))
        latents = torch.empty(rows, channels, size, size, device=META)
        predict_noise(base.unet, latents, torch.ones((), device=META), conditions)
    peak: int = meter.peak
    return peak


def _count_step(base: Base, config: FitConfig, measures: Measures) -> dict[str, int]:
    objective, names = OBJECTIVES[config.objective], frozenset(config.loss_weights())
    decodes = bool(names & TERMS)
    rows = config.batch_size * (2 if names & objective.style_losses else 1)
    encoder: Any = base.image_encoder
    size, channels = base.unet.config.sample_size, base.unet.config.in_channels
    num_tokens = 1 + (encoder.config.image_size // encoder.config.patch_size) ** 2
    with META:
        model = build_model(config, base, torch.empty(1, num_tokens, encoder.config.hidden_size), None)
    trained = sum(parameter.numel() for parameter in model.trainable_parameters())
    kept = [base.vae] if decodes or config.preview_every or not measures.rests else []
    kept += [] if measures.rests else [encoder]
    # What is trained is float32, as are its two moments; gradients are seen by the meter.
    afun = [] if model.afun is None else [model.afun]
    held = _sum_held(base, measures) + sum(_sum_bytes(module) for module in (*kept, *afun)) + 2 * 4 * trained
    input_ids = model.tokenize(config.prompt()).to(META)
    with CostMeter() as meter:
        noisy_latents = torch.empty(rows, channels, size, size, device=META)
        with _FuseAttention():  # of the text encoders
            pred = model(noisy_latents, torch.ones(rows, device=META), input_ids=input_ids)
        loss = pred.square().mean()
        if decodes:
            images = decode_latents(base.vae, pred[: config.batch_size])
            features = encode_features(base.vae, images) if "gram" in names else []
            loss = loss + sum((feature.mean() for feature in features), images.mean())
        loss.backward()
    imagery = config.batch_size * _predict_imagery(base.resolution) if decodes else 0
    model.eject()
    return {"step_bytes": held + meter.peak + imagery, "step_flops": meter.flops}


def _predict_imagery(size: int) -> int:
    return IMAGERY_BYTES + IMAGERY_BYTES_PER_PIXEL * size * size


def _sum_held(base: Base, measures: Measures) -> int:
    """Bytes of the UNet and text encoders that are always on the device."""
    streamed = [
        p for module in find_streamed(base.unet) for p in module.parameters(recurse=False) if not p.requires_grad
    ]
    away = sum(p.numel() * p.element_size() for p in streamed) if measures.streams else 0
    return sum(_sum_bytes(module) for module in (base.unet, *base.text_encoders)) - away


def _sum_bytes(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() * p.element_size() for p in module.parameters())


class _FuseAttention(TorchFunctionMode):
    """Attention as one kernel, which device "meta" has not by itself; what is masked counts as the rest."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3])[0]
        return func(*args, **(kwargs or {}))


class _FusedAttention:
    """For diffusers: its own way of attending, inside `_FuseAttention` also where blocks are recomputed."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, *args: Any, temb: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        with _FuseAttention():
            output: Tensor = AttnProcessor2_0()(attn, hidden_states, *args, temb=temb, **kwargs)
        return output


def measure_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of convolutions and products of matrices as a UNet has them, right now."""
    channels, side, operations = 640, 32, 0
    images = torch.randn(2, channels, side, side, device=device, dtype=dtype)
    kernels = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    rows = torch.randn(2 * side * side, channels, device=device, dtype=dtype)
    matrix = torch.randn(channels, 8 * channels, device=device, dtype=dtype)
    with torch.no_grad(), CostMeter() as counter:
        F.conv2d(images, kernels, padding=1)
        rows @ matrix
    start = time.perf_counter()
    while time.perf_counter() - start < RATE_SECONDS:
        F.conv2d(images, kernels, padding=1)
        float((rows @ matrix)[0, 0])  # waits for the device
        operations += counter.flops
    return operations / (time.perf_counter() - start)
