"""Names of a UNet's modules in the original layout of Stable Diffusion, in which others keep weights and LoRAs."""

import re

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_RESAMPLER = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(?:downsamplers|upsamplers)\.0\.conv")
_BLOCK = re.compile(r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(resnets|attentions)\.(\d+)\.(.+)")


def name_original(name: str, layers_per_block: int) -> str:
    """The original name of a module in a block of the UNet.

    Args:
        name: module path in diffusers, for example "down_blocks.1.resnets.0.conv1".
        layers_per_block: of the UNet's config. Upsamplers stand after attention, as all of SDXL's do.

    Raises:
        ValueError: the module stands outside the blocks.
    """
    resampler = _RESAMPLER.fullmatch(name)
    if resampler is not None:
        start = int(resampler[2]) * (layers_per_block + 1)
        if resampler[1] == "down_blocks":
            return f"input_blocks.{start + layers_per_block + 1}.0.op"
        return f"output_blocks.{start + layers_per_block}.2.conv"
    match = _BLOCK.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is in no block of a UNet")
    part, block, kind, layer, rest = match.groups()
    if kind == "resnets":
        head, *tail = rest.split(".")
        rest = ".".join([_RESNET[head], *tail])
    if part == "mid_block":
        return f"middle_block.{2 * int(layer) + (kind == 'attentions')}.{rest}"
    # A stage has one block more than layers: encoders end it with a downsampler, decoders with one more layer. What
    # comes first of all in the encoder is the convolution of the latents.
    index = int(block) * (layers_per_block + 1) + int(layer)
    blocks, start = ("input_blocks", 1) if part == "down_blocks" else ("output_blocks", 0)
    return f"{blocks}.{start + index}.{int(kind == 'attentions')}.{rest}"
