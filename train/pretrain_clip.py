"""Train the embedded base's text encoder and image encoder as a CLIP pair, on portraits and their captions.

    python -m train.pretrain_clip --config train/configs/clip_cpu.toml --data SHARDS --held-out SHARDS \
        --output RUN

The text encoder has no projection: the joint space is its own hidden width, so the exported CLIPTextModel's
pooled output is the text embedding (Radford et al. 2021, arXiv:2103.00020).
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from acfun.config import load_config
from train import pretraining
from train.build_tokenizer import build_tokenizer, sample_corpus
from train.ema import Ema

MAX_LOGIT_SCALE = 100.0
RETRIEVAL_GROUP = 32
MAX_CORPUS = 50_000


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What a run is.

    Attributes:
        vocab_size: upper bound of the tokenizer's vocabulary.
        max_length: tokens of a prompt, start and end included.
        hidden_size: width of both encoders and of the joint space.
        num_heads: attention heads of both.
        text_layers: layers of the text encoder.
        vision_layers: layers of the image encoder.
        image_size: width of the images it sees, pixels; shards are resized to it.
        patch_size: width of a patch, pixels.
        batch_size: pairs a step, each the others' negative.
        learning_rate: of AdamW, peak.
        weight_decay: of matrices; vectors and embeddings have none.
        min_crop: smallest width of the random crops, as a part of the image.
        ema_decay: of the averaged weights that are exported.
        precision: "bf16" or "no".
        num_threads: CPU threads; 0 leaves torch's own choice.
        use_compile: compile the pair (GPU).
        seed: of everything random.
    """

    vocab_size: int = 2048
    max_length: int = 32
    hidden_size: int = 256
    num_heads: int = 4
    text_layers: int = 4
    vision_layers: int = 6
    image_size: int = 128
    patch_size: int = 16
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    min_crop: float = 0.8
    ema_decay: float = 0.999
    precision: str = "bf16"
    num_threads: int = 0
    use_compile: bool = False
    seed: int = 0


class ClipPair(nn.Module):
    """Both encoders and the learned temperature in one module, the one that accelerate prepares."""

    def __init__(self, text: CLIPTextModel, vision: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.text, self.vision = text, vision
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit-length embeddings (B,D) of normalised images (B,3,H,W) and texts (B,T); the logit scale."""
        image_embeds = F.normalize(self.vision(pixel_values=pixel_values).image_embeds.float(), dim=-1)
        text_embeds = F.normalize(self.text(input_ids=input_ids).pooler_output.float(), dim=-1)
        return image_embeds, text_embeds, self.log_scale.exp().clamp(max=MAX_LOGIT_SCALE)


def build_pair(config: ClipConfig, tokenizer: CLIPTokenizer) -> ClipPair:
    """Fresh encoders for the tokenizer's vocabulary."""
    width = config.hidden_size
    shared: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": config.num_heads,
        "projection_dim": width,
    }
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=config.max_length,
        num_hidden_layers=config.text_layers,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shared,
    )
    vision = CLIPVisionConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_hidden_layers=config.vision_layers,
        **shared,
    )
    return ClipPair(CLIPTextModel(text), CLIPVisionModelWithProjection(vision))


def compute_contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, is_same: Tensor) -> Tensor:
    """Symmetric cross-entropy over the batch; every text equal to an image's own counts as its own too.

    Notation: image_embeds (B,D) → I_e, text_embeds (B,D) → T_e, logit_scale → exp(t), CLIP's Figure 3
    (arXiv:2103.00020). `is_same` (B,B) is True where two captions are the same text; the target is even over
    them (with all texts different it is the identity, CLIP's own loss).
    """
    logits = logit_scale * image_embeds @ text_embeds.T
    target = is_same.float() / is_same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def compare_texts(texts: Sequence[str]) -> Tensor:
    """(B,B) bool: which texts are equal."""
    _, numbers = np.unique(np.asarray(texts), return_inverse=True)
    return torch.from_numpy(numbers[:, None] == numbers[None, :])


def sample_crops(pixel_values: Tensor, size: int, min_crop: float, generator: torch.Generator) -> Tensor:
    """One random square crop of each image (B,3,H,W), half of them mirrored, resized to (B,3,size,size)."""
    batch = len(pixel_values)
    scale = min_crop + (1 - min_crop) * torch.rand(batch, generator=generator)
    shift = (2 * torch.rand(batch, 2, generator=generator) - 1) * (1 - scale)[:, None]
    mirror = 1 - 2.0 * (torch.rand(batch, generator=generator) < 0.5)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = F.affine_grid(theta, [batch, 3, size, size], align_corners=False)
    return F.grid_sample(pixel_values, grid.to(pixel_values), padding_mode="border", align_corners=False)


class ClipRun:
    """One training run: tokenizer, pair, optimizer and their step."""

    def __init__(self, config: ClipConfig, tokenizer: CLIPTokenizer, accelerator: Accelerator) -> None:
        self.config, self.tokenizer, self.accelerator = config, tokenizer, accelerator
        size = config.image_size
        self.image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        )
        self.pair = build_pair(config, tokenizer).to(accelerator.device)
        self.ema = Ema(self.pair, config.ema_decay)
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.pair.named_parameters():
            (others if parameter.ndim < 2 or "embedding" in name else matrices).append(parameter)
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)
        self.prepared, self.optimizer = accelerator.prepare(self.pair, optimizer)
        if config.use_compile:
            self.prepared.compile()

    def embed(self, pixel_values: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Embed images (B,3,S,S) in [-1,1] and their texts."""
        device = self.accelerator.device
        mean, std = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (self.image_processor.image_mean, self.image_processor.image_std)
        )
        padding = "max_length" if self.config.use_compile else "longest"
        tokens = self.tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
        normalised = (pixel_values.to(device) / 2 + 0.5 - mean) / std
        embeds: tuple[Tensor, Tensor, Tensor] = self.prepared(normalised, tokens.input_ids.to(device))
        return embeds

    def step(self, pixel_values: Tensor, texts: Sequence[str], learning_rate: float) -> Tensor:
        """Train on one batch; returns the loss, detached."""
        pretraining.set_learning_rate(self.optimizer, learning_rate)
        image_embeds, text_embeds, scale = self.embed(pixel_values, texts)
        is_same = compare_texts(texts).to(image_embeds.device)
        loss = compute_contrastive_loss(image_embeds, text_embeds, scale, is_same)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.prepared.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.pair)
        return loss.detach()

    @torch.no_grad()
    def measure_retrieval(self, data: pretraining.Shards, limit: int = 512) -> dict[str, float]:
        """Share of images whose caption wins among 32, of captions whose image wins; equal texts count."""
        hits: dict[str, list[float]] = {"image_to_text": [], "text_to_image": []}
        for start in range(0, min(limit, len(data)), RETRIEVAL_GROUP):
            indices = torch.arange(start, min(start + RETRIEVAL_GROUP, limit, len(data)))
            pixel_values = F.interpolate(data.pixel_values(indices), self.config.image_size, mode="area")
            texts = [data.captions[i][0] for i in indices.tolist()]
            image_embeds, text_embeds, _ = self.embed(pixel_values, texts)
            similarity, is_same = (image_embeds @ text_embeds.T).cpu(), compare_texts(texts)
            for name, table in (("image_to_text", similarity), ("text_to_image", similarity.T)):
                hits[name] += is_same[torch.arange(len(texts)), table.argmax(1)].float().tolist()
        return {name: float(np.mean(values)) for name, values in hits.items()}

    def parts(self) -> dict[str, pretraining.HasState]:
        """What a checkpoint holds."""
        return {"pair": self.pair, "ema": self.ema, "optimizer": self.optimizer}

    def export(self, directory: Path) -> None:
        """Write `text_encoder` and `image_encoder` (averages, fp16), `tokenizer` and `feature_extractor`."""
        with self.ema.applied(self.pair):
            pretraining.export_half(self.pair.text, directory / "text_encoder")
            pretraining.export_half(self.pair.vision, directory / "image_encoder")
        self.tokenizer.save_pretrained(directory / "tokenizer")
        self.image_processor.save_pretrained(directory / "feature_extractor")


def train(args: argparse.Namespace, config: ClipConfig) -> None:
    """Run until the budget ends, then export the averaged pair into `args.output`."""
    accelerator = pretraining.build_accelerator(args.device, config.precision)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    data, held_out = pretraining.open_shards(*args.data), pretraining.open_shards(args.held_out)
    tokenizer_dir = args.output / "tokenizer"
    if args.resume and tokenizer_dir.is_dir():
        tokenizer = CLIPTokenizer.from_pretrained(tokenizer_dir)
    else:
        corpus = sample_corpus(chain.from_iterable(data.captions[:MAX_CORPUS]), seed=config.seed)
        tokenizer = build_tokenizer(corpus, config.vocab_size, config.max_length)
        tokenizer.save_pretrained(tokenizer_dir)
    run, state = ClipRun(config, tokenizer, accelerator), pretraining.TrainState()
    if args.resume:
        pretraining.load_checkpoint(args.output, state, generator, **run.parts())

    def step(progress: float) -> tuple[dict[str, float], int]:
        indices = torch.randint(len(data), (config.batch_size,), generator=generator)
        images = sample_crops(data.pixel_values(indices), config.image_size, config.min_crop, generator)
        texts = data.sample_captions(indices, generator)
        loss = run.step(images, texts, config.learning_rate * pretraining.compute_cosine_scale(progress))
        return {"loss": float(loss), "scale": float(run.pair.log_scale.detach().exp())}, len(indices)

    def save() -> dict[str, float]:
        pretraining.save_checkpoint(args.output, state, generator, **run.parts())
        with run.ema.applied(run.pair):
            return run.measure_retrieval(held_out)

    budget = pretraining.Budget(args.minutes, state, args.max_steps)
    pretraining.run_loop(step, save, budget=budget, output=args.output)
    run.export(args.output)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training shards")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of shards of people not trained on")
    pretraining.add_run_arguments(parser, minutes=14)
    parser.add_argument("--seed", type=int, help="overrides the config")
    args = parser.parse_args()
    config = load_config(ClipConfig, args.config, {"seed": args.seed})
    pretraining.prepare_process(config.num_threads)
    train(args, config)


if __name__ == "__main__":
    main()
