"""Put separately trained parts together into the embedded base, an ordinary diffusers folder.

`python -m train.assemble_mini --vae RUN/vae --unet RUN/unet --scheduler RUN/scheduler --output acfun/base/mini`

Parts that are not named stay as they are. Everything is fp16; the total is printed and may not exceed 64 MiB.
"""

import argparse
import json
import shutil
from pathlib import Path

from acfun.errors import DataError
from acfun.paths import atomic_write

CLIP_PARTS = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor")
MAX_BYTES = 64 * 2**20
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": ["transformers", "CLIPImageProcessorPil"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def assemble(parts: dict[str, Path], output: Path) -> int:
    """Copy parts into place and write model_index.json; returns the size of all files in bytes.

    Raises:
        DataError: a part is no folder, or lies where it would be copied to; nothing is changed then.
    """
    for name, source in parts.items():
        if not source.is_dir() or source.resolve() == (output / name).resolve():
            raise DataError(f"{name}: {source} is no folder to copy to {output / name}; give the one of a training run")
    output.mkdir(parents=True, exist_ok=True)
    for name, source in parts.items():
        shutil.rmtree(output / name, ignore_errors=True)
        shutil.copytree(source, output / name)
    with atomic_write(output / "model_index.json") as temporary:
        temporary.write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in output.rglob("*") if path.is_file())


def main() -> None:
    """Parse the command line and assemble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in (
        "vae",
        "unet",
        "scheduler",
        "clip",
        "face-finder",
        "segmenter",
        "identity-encoder",
        "identity-adapter",
    ):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    named = {"vae": args.vae, "unet": args.unet, "scheduler": args.scheduler}
    named |= {"face_finder": args.face_finder, "segmenter": args.segmenter, "identity_encoder": args.identity_encoder}
    named |= {"identity_adapter": args.identity_adapter}
    if args.clip is not None:
        named |= {part: args.clip / part for part in CLIP_PARTS}
    size = assemble({name: path for name, path in named.items() if path is not None}, args.output)
    print(f"{args.output}: {size / 2**20:.1f} MiB")
    if size > MAX_BYTES:
        raise SystemExit(f"{size} bytes are over the limit of {MAX_BYTES}: train smaller parts")


if __name__ == "__main__":
    main()
