"""What a fit shows while it runs: a progress bar with losses and time left, and preview grids in the run folder."""

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Column

from acfun.config import FitConfig, dump_toml
from acfun.errors import ConfigError
from acfun.fit import Progress
from acfun.fit_checkpoint import CHECKPOINT_NAME, check_resumable
from acfun.images import contact_sheet, load_image, save_image, tensor_to_pil
from acfun.paths import atomic_write

CONFIG_NAME = "config.toml"
PREVIEW_NAME = "preview_{step:05d}.png"


class FitReporter:
    """Reports a fit; give it to `fit_style` as `report` and use it as a context manager around the fit.

    Args:
        config: of the fit; names the run folder.
        console: where the bar is drawn.
        quiet: draw no bar.

    Attributes:
        step: steps done, of this and of earlier sessions; all of them until the first report, since a fit that
            resumes a finished run has nothing to report.
    """

    def __init__(self, config: FitConfig, console: Console, *, quiet: bool = False) -> None:
        self.config, self.step = config, config.max_steps
        self._bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(table_column=Column(ratio=1)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True, min_width=10)),
            TextColumn("{task.fields[losses]}", table_column=Column(no_wrap=True, ratio=3)),
            console=console,
            disable=quiet,
        )
        self._task = self._bar.add_task("preparing", total=config.max_steps, losses="", left="")

    @property
    def is_complete(self) -> bool:
        """Whether nothing was left to do; False after an interruption."""
        return self.step >= self.config.max_steps

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        self.step = progress.step
        self._bar.update(
            self._task,
            description="fitting",
            completed=progress.step,
            losses=" ".join(f"{name} {loss:.3f}" for name, loss in progress.losses.items()),
            left=f"{round(progress.seconds_left)} s left",
        )
        if progress.preview is not None and self.config.output_dir is not None:
            self._save_preview(Path(self.config.output_dir), progress)

    def _save_preview(self, directory: Path, progress: Progress) -> None:
        """A grid of the style image and the predicted pictures."""
        assert progress.preview is not None
        pictures = [tensor_to_pil(picture) for picture in progress.preview]
        cells = [load_image(self.config.style_path).resize(pictures[0].size), *pictures]
        labels = ["style", *(f"step {progress.step}" for _ in pictures)]
        sheet = contact_sheet(cells, columns=min(len(cells), 4), labels=labels)
        save_image(sheet, directory / PREVIEW_NAME.format(step=progress.step))


def start_run_dir(config: FitConfig) -> None:
    """Create the run folder that a config asks for, if any, and note the config in it; a resumed run keeps its own.

    Raises:
        ConfigError: the folder cannot be made or written to, or holds a checkpoint of another configuration that is to
            be resumed.
    """
    if config.output_dir is None:
        return
    directory = Path(config.output_dir)
    check_resumable(config)
    if config.resume and (directory / CHECKPOINT_NAME).is_file():
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(directory / CONFIG_NAME) as temporary:
            temporary.write_text(dump_toml(asdict(config)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{directory}: this cannot be the run folder ({error}); choose another place") from error
