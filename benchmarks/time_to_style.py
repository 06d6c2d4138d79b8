"""How long acfun and the recipes that learn a style take to the same nearness to it.

`python -m benchmarks.time_to_style`

Scenes are those of the suite `paired` of `acfun benchmark`, one photograph each. Every method learns the style afresh
for each number of steps, in turn with the others, and paints the photograph: CPU seconds of the process, learning and
painting together, and how near the picture is to style and person.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from acfun.base import Base, load_base
from acfun.evaluation.contract import Painter
from acfun.evaluation.measures import measure
from acfun.evaluation.methods import METHODS, AcfunVariant
from acfun.evaluation.peers import low_rank, words
from acfun.evaluation.suites import RENDERERS, Scene, build_paired
from acfun.face.identity import load_identity_encoder

STYLES = ("caricature", "etching", "fauvist", "oil")
COLUMNS = ("style_distance", "stroke_distance", "identity")


@dataclass(frozen=True)
class Contender:
    """A method that learns for a number of steps.

    Attributes:
        prepare: (base, scene, seed, number of steps) → painter.
        steps: the numbers to try.
        setting: of the painter's dial.
    """

    prepare: Callable[[Base, Scene, int, int], Painter]
    steps: Sequence[int]
    setting: float = 1.0


def fit_acfun(base: Base, scene: Scene, seed: int, num_steps: int) -> Painter:
    """acfun with all its defaults but the number of steps."""
    return AcfunVariant(fit={"max_steps": num_steps})(base, scene, seed)


def invert_text(base: Base, scene: Scene, seed: int, num_steps: int) -> Painter:
    """Textual inversion."""
    return words.invert_text(base, scene, seed, replace(words.WORD_RECIPE, num_steps=num_steps))


def tune_attention(base: Base, scene: Scene, seed: int, num_steps: int) -> Painter:
    """DreamBooth with LoRA."""
    return low_rank.tune_attention(base, scene, seed, replace(low_rank.DREAMBOOTH_RECIPE, num_steps=num_steps))


CONTENDERS = {
    "acfun": Contender(fit_acfun, (0, 15, 60)),
    "textual_inversion": Contender(invert_text, (50, 200, 800), METHODS["textual_inversion"].default),
    "dreambooth_lora": Contender(tune_attention, (50, 200, 800), METHODS["dreambooth_lora"].default),
}


def main() -> None:
    """Parse the command line, run, and print the table: means over the scenes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--styles", nargs="+", default=STYLES, choices=sorted(RENDERERS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    base, encoder = load_base(args.base), load_identity_encoder()
    trials = [(name, steps) for name, contender in CONTENDERS.items() for steps in contender.steps]
    figures: dict[tuple[str, int], list[torch.Tensor]] = {trial: [] for trial in trials}
    for index, style in enumerate(args.styles):
        scene = build_paired(style, index, base.resolution, 1)
        for name, steps in trials:
            started = time.process_time()
            results = CONTENDERS[name].prepare(base, scene, args.seed, steps)(CONTENDERS[name].setting)
            seconds = time.process_time() - started
            [found] = measure(base, encoder, scene, results.to(scene.faces))
            figures[name, steps].append(torch.tensor([seconds, *(found[column] for column in COLUMNS)]))
            values = ", ".join(f"{column} {found[column]:.2f}" for column in COLUMNS)
            print(f"{style}: {name}, {steps} steps, {seconds:.1f} s: {values}", flush=True)
    print(f"| method | steps | CPU s | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 3) + "|", sep="\n")
    for (name, steps), rows in figures.items():
        seconds, *means = torch.stack(rows).mean(0).tolist()
        print(f"| {name} | {steps} | {seconds:.1f} | {' | '.join(f'{mean:.2f}' for mean in means)} |")


if __name__ == "__main__":
    main()
