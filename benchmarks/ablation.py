"""Compare objectives and fusion variants where the truth is known.

`python -m benchmarks.ablation --output RUN`

The suite is `paired` of `acfun benchmark`, and so are rows, table and sheet. Each style is fitted with the first of the
people and painted on all. A second start goes on where the first one ended.
"""

import argparse
from pathlib import Path
from typing import Any

from acfun.base import load_base
from acfun.evaluation.methods import METHODS, AcfunVariant, Method
from acfun.evaluation.report import write_report
from acfun.evaluation.runner import Ledger, run
from acfun.evaluation.suites import RENDERERS, build_paired
from acfun.face.finder import load_face_finder
from acfun.face.identity import load_identity_encoder
from acfun.style import Style

Options = dict[str, Any]

# What the fit alone makes of the noised photograph: no sketch, no guide, no finish.
UNGUIDED: Options = {"imagery_scale": 0.0, "strength": 0.5}
VARIANTS: dict[str, tuple[Options, Options]] = {
    # Fields of `FitConfig`, and arguments of the pipeline, that differ from the defaults.
    "default": ({}, {}),
    "no fit": ({}, {"style_scale": 0.0}),
    "no guide": ({}, {"num_guide_steps": 0}),
    "brushwork alone": ({}, {"style_scale": 0.0, "num_guide_steps": 0, "strength": 0.05}),
    "imagery, guided": ({"objective": "imagery"}, {}),
    "pseudo_pair": ({}, UNGUIDED),
    "imagery": ({"objective": "imagery"}, UNGUIDED),
    "two_target": ({"objective": "two_target"}, UNGUIDED),
    "time_split": ({"objective": "time_split"}, UNGUIDED),
    "shared": ({"objective": "shared"}, UNGUIDED),
    "AFun alone": ({"cfun": "none"}, UNGUIDED),
    "CFun alone": ({"use_afun": False}, UNGUIDED),
    "CFun encoder": ({"cfun_groups": ("encoder",)}, UNGUIDED),
    "CFun decoder": ({"cfun_groups": ("decoder",)}, UNGUIDED),
    "std affine": ({"cfun": "std_affine"}, UNGUIDED),
    "mean and std affine": ({"cfun": "mean_std_affine"}, UNGUIDED),
    "LoRA in attention": ({"cfun": "attention_lora"}, UNGUIDED),
    "pseudo-word alone": ({"face_description": ""}, UNGUIDED),
}
STYLES = ("oil", "cartoon", "caricature", "etching", "fauvist", "munch_swirl")
NUM_PEOPLE = 6


def build_methods(names: list[str], fit: Options, sampling: Options) -> dict[str, Method]:
    """The variants of these names, with further options; they share what they fit."""
    styles: dict[str, Style] = {}
    methods = {}
    for name in names:
        if name in METHODS:
            methods[name] = METHODS[name]
        else:
            own_fit, own_sampling = VARIANTS[name]
            variant = AcfunVariant(fit | own_fit, sampling | own_sampling, styles=styles)
            methods[name] = Method(variant, "none", (1.0,), 1.0, is_seeded=True)
    return methods


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--styles", nargs="+", default=STYLES, choices=sorted(RENDERERS))
    choices = ["photograph", "truth", *VARIANTS]
    parser.add_argument("--variants", nargs="+", default=choices, choices=choices)
    parser.add_argument("--max-steps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    base = load_base(args.base)
    scenes = (build_paired(name, index, base.resolution, NUM_PEOPLE) for index, name in enumerate(args.styles))
    methods = build_methods(args.variants, {"max_steps": args.max_steps}, {"num_inference_steps": args.steps})
    meaning = {"styles": args.styles, "max_steps": args.max_steps, "steps": args.steps}
    ledger = Ledger(args.output, {"base": base.fingerprint, **meaning})
    run(base, load_identity_encoder(), scenes, methods, [args.seed], ledger, print, finder=load_face_finder())
    write_report(args.output, methods, args.seed)
    print((args.output / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
