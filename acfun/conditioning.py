"""What a UNet with a style in it is told: faces, prompts, how strongly the style acts, guidance, and callbacks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from acfun.base import Conditions, encode_ids, predict, tokenize
from acfun.base.conditions import concatenate
from acfun.base.prompts import blank_empty
from acfun.images import pil_to_tensor, resize
from acfun.sampling import OnStep
from acfun.style_model import StyleModel

Faces = Image.Image | Sequence[Image.Image] | Tensor
Value = TypeVar("Value")
MAX_ASPECT = 2  # of results whose shape is the face's


def choose_size(
    face: Faces | None, height: int | None, width: int | None, resolution: int, step: int
) -> tuple[int, int]:
    """(height, width) of a result: what is asked for; else of the shape of the first face; else square.

    Args:
        face: what is painted, if anything.
        height: asked for, pixels; None with a width: `resolution`.
        width: likewise.
        resolution: the shorter side where nothing is asked for; the longer one is at most `MAX_ASPECT` times as long.
        step: sides are multiples of this.

    Raises:
        ValueError: the face is neither pictures nor a tensor (B,3,H,W), or a side no multiple.
    """
    for name, side in (("height", height), ("width", width)):
        if side is not None and (side < 1 or side % step):
            raise ValueError(f"{name} is {side}: give a multiple of {step}")
    if face is not None:
        _check_faces(face)
    if face is None or height or width:
        return height or resolution, width or resolution
    first = face if isinstance(face, Tensor | Image.Image) else next(iter(face))
    old = first.shape[-2:] if isinstance(first, Tensor) else (first.height, first.width)
    longest = MAX_ASPECT * resolution
    sides = [min(longest, step * max(1, round(side * resolution / min(old) / step))) for side in old]
    return sides[0], sides[1]


def prepare_faces(face: Faces, size: tuple[int, int]) -> Tensor:
    """Portraits (B,3,*size) in [-1,1] of pictures or of (B,3,H,W) in [-1,1], stretched to (height, width).

    Raises:
        ValueError: it is neither.
    """
    _check_faces(face)
    if isinstance(face, Image.Image):
        face = [face]
    if not isinstance(face, Tensor):
        return torch.cat([resize(pil_to_tensor(picture), size) for picture in face])
    return (face if face.shape[-2:] == size else resize(face, size)).float()


def _check_faces(face: Faces) -> None:
    wanted = "PIL pictures or a tensor (B,3,H,W) in [-1,1] are needed"
    if isinstance(face, Tensor):
        if face.ndim != 4 or face.shape[1] != 3:
            raise ValueError(f"face has shape {tuple(face.shape)}: {wanted}")
        return
    pictures = [face] if isinstance(face, Image.Image) else face
    if not isinstance(pictures, Sequence) or isinstance(pictures, str):
        raise ValueError(f"face is a {type(face).__name__}: {wanted}")
    if not pictures:
        raise ValueError(f"face is empty: {wanted}")
    if strangers := [type(one).__name__ for one in pictures if not isinstance(one, Image.Image)]:
        raise ValueError(f"face holds a {strangers[0]}: {wanted}")


def pair(
    prompt: str | Sequence[str], negative_prompt: str | Sequence[str], faces: Tensor | None, times: int
) -> tuple[list[str], list[str], Tensor | None]:
    """Prompts, negative prompts and faces (B,3,H,W) of equal number: one serves all; every one `times` times in a row.

    Raises:
        ValueError: their numbers differ, and are not 1.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negatives = [negative_prompt] if isinstance(negative_prompt, str) else list(negative_prompt)
    count = max(1, len(prompts), 0 if faces is None else len(faces))
    prompts, negatives = _repeat(prompts, count, times, "prompts"), _repeat(negatives, count, times, "negative prompts")
    return prompts, negatives, None if faces is None else torch.stack(_repeat(list(faces), count, times, "faces"))


def name_style(model: StyleModel, text: str) -> str:
    """The prompt with the style's pseudo-word in it, written once for each of its vectors."""
    if model.token is None:
        return text
    placeholder = model.token.tokens[0]
    return model.token.expand(text if placeholder in text else f"{text} in {placeholder} style")


def encode_prompts(
    pipe: Any,
    model: StyleModel | None,
    prompts: Sequence[str],
    negatives: Sequence[str] | None,
    size: tuple[int, int],
) -> Conditions:
    """Conditions of prompts; with guidance the negative ones come first.

    Args:
        pipe: a pipeline of acfun, with its own textual inversions.
        model: the style in its modules.
        prompts: B texts; the style's pseudo-word is added where it is missing.
        negatives: B texts, or None without guidance.
        size: height and width of the pictures, pixels.

    Returns:
        B rows, or 2B with guidance; `negative_prompt_embeds` are then noted too.
    """
    base, count = pipe.base, len(prompts)
    texts = [prompt if model is None else name_style(model, prompt) for prompt in prompts] + list(negatives or ())
    tokenizers = base.tokenizers if model is None else model.tokenizers
    # Words that diffusers loaded may stand for several tokens, in each tokenizer for its own number.
    pairs = zip(tokenizers, base.tokenizers, strict=True)
    rows = [tokenize(tokenizer, pipe.maybe_convert_prompt(texts, own)) for tokenizer, own in pairs]
    both = encode_ids(base, torch.stack(rows, dim=1), size)
    positive, negative = both.select(slice(count)), both.select(slice(count, None))
    if model is not None:
        positive.prompt_embeds = model.fuse(positive.prompt_embeds)
    if negatives is None:
        return positive
    negative = blank_empty(base, negative, negatives)
    conditions = concatenate([negative, positive])
    conditions.negative_prompt_embeds = negative.prompt_embeds
    return conditions


def predict_guided(
    unet: Any,
    latents: Tensor,
    timestep: Tensor,
    conditions: Conditions,
    guidance_scale: float,
    cross_attention_kwargs: dict[str, Any] | None = None,
) -> Tensor:
    """The UNet's prediction (B,C,h,w), with classifier-free guidance where there are twice as many prompts as latents.

    Args:
        unet: with or without adapters.
        latents: (B,C,h,w).
        timestep: ().
        conditions: B rows, or 2B with the negative ones first.
        guidance_scale: 1 is the prompt's own prediction.
        cross_attention_kwargs: for the attention processors.
    """
    is_guided = len(conditions) == 2 * len(latents)
    rows = torch.cat([latents, latents]) if is_guided else latents
    output = predict(unet, rows, timestep, conditions, cross_attention_kwargs)
    if not is_guided:
        return output
    negative, positive = output.chunk(2)
    return negative + guidance_scale * (positive - negative)


@contextmanager
def scaled(
    model: StyleModel | None, *, style_scale: float, structure_scale: float = 1.0, color_scale: float = 1.0
) -> Iterator[None]:
    """Inside the block the style acts as strongly as asked for, afterwards as it was fitted.

    Args:
        model: None where there is no style.
        style_scale: of all parts; 0 is the base, 1 the style as fitted.
        structure_scale: multiplies it in the UNet's decoder.
        color_scale: multiplies it in the UNet's encoder.
    """
    if model is None:
        yield
        return
    model.set_scale(
        abstract=style_scale,
        encoder=style_scale * color_scale,
        middle=style_scale,
        decoder=style_scale * structure_scale,
    )
    try:
        yield
    finally:
        model.set_scale(abstract=1.0, encoder=1.0, middle=1.0, decoder=1.0)


def build_callback(
    callback: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]],
    pipe: Any,
    conditions: Conditions,
    names: Sequence[str],
) -> OnStep:
    """For `denoise`: calls a `callback_on_step_end` as diffusers does.

    Args:
        callback: (pipe, index, timestep, tensors by name) → tensors to go on with, by name.
        pipe: for the callback.
        conditions: of `encode_prompts`; take what the callback changes of them.
        names: of the tensors that the callback is given; None stands for what there is not.
    """

    def call(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
        given: dict[str, Any] = {name: getattr(conditions, name, None) for name in names}
        given |= {"latents": latents} if "latents" in names else {}
        changed = callback(pipe, index, timestep, given)
        for name in changed.keys() & {field.name for field in fields(conditions)}:
            setattr(conditions, name, changed[name])
        return changed.get("latents", latents)

    return call


def _repeat(values: list[Value], count: int, times: int, name: str) -> list[Value]:
    if len(values) not in {1, count}:
        raise ValueError(f"{len(values)} {name} for {count} prompts or faces: give one, or one each")
    return [value for value in (values * count)[:count] for _ in range(times)]
