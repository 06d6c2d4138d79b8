"""Fit a style with accelerate, on one process or several: only the main one shows, writes and saves.

    accelerate launch train/fit_style.py --config train/configs/fit_mini_cpu.toml --style STYLE.png \\
        --face PHOTO.jpg --output STYLE.safetensors --run-dir RUN [--resume]

Several processes, on GPUs or on the CPU, are started with `--multi_gpu --num_processes 2`; `--cpu --num_processes 2` is
read by accelerate as one process.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from acfun.process import restart_with_malloc_settings


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="TOML file with fields of FitConfig")
    parser.add_argument("--style", type=Path, help="style image; style_path of the config when left out")
    parser.add_argument("--face", type=Path, action="append", help="photograph to fit with; may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="style file to write, *.safetensors")
    parser.add_argument("--base", help="mini, a diffusers folder or a hub id")
    parser.add_argument("--run-dir", type=Path, help="folder for config, previews and checkpoint")
    parser.add_argument(
        "--resume", action="store_true", default=None, help="go on from the run folder's checkpoint, if any"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the config and stop")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and save; returns the exit code, as the `acfun` command has it."""
    from acfun.errors import AcfunError

    options = parse_arguments(arguments)
    try:
        return fit(options)
    except AcfunError as error:
        print(error, file=sys.stderr)
        return 1


def fit(options: argparse.Namespace) -> int:
    """Run the fit on every process and save the style on the main one."""
    from dataclasses import asdict, replace

    from acfun.commands.fit import INTERRUPTED, check_images, check_resume, check_style_path
    from acfun.config import FitConfig, dump_toml, load_config

    paths = {"style_path": options.style, "output_dir": options.run_dir}
    overrides: dict[str, object] = {name: None if path is None else str(path) for name, path in paths.items()}
    faces = None if options.face is None else tuple(map(str, options.face))
    overrides |= {"face_paths": faces, "base": options.base, "resume": options.resume}
    config = load_config(FitConfig, options.config, overrides)
    if options.dry_run:
        print(dump_toml(asdict(config)), end="")
        return 0
    check_style_path(options.output)
    check_resume(config, is_given=False)
    check_images(*map(Path, (config.style_path, *config.face_paths)))

    from accelerate import PartialState
    from rich.console import Console

    from acfun.devices import select_device
    from acfun.fit import fit_style
    from acfun.progress import FitReporter, start_run_dir

    # With "auto" and no GPU, accelerate would take the processes for strangers.
    config = replace(config, device=select_device(config.device).type)
    state = PartialState(cpu=config.device == "cpu")
    is_main = state.is_main_process
    if is_main:
        print(f"{state.num_processes} process(es) on {config.device}", file=sys.stderr)
        start_run_dir(config)
    with FitReporter(config, Console(stderr=True), quiet=not is_main) as reporter:
        style = fit_style(config, report=reporter)
    if is_main:
        style.save(options.output)
        print(options.output)
    return 0 if reporter.is_complete or not is_main else INTERRUPTED


if __name__ == "__main__":
    restart_with_malloc_settings()
    sys.exit(main())
