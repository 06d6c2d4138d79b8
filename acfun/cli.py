"""The `acfun` command: exit code 0, 1 for an explained error, 2 for wrong usage, 130 when interrupted."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from acfun import __version__
from acfun.commands.apply import apply
from acfun.commands.benchmark import benchmark
from acfun.commands.demo import demo
from acfun.commands.doctor import doctor
from acfun.commands.export import export
from acfun.commands.fit import INTERRUPTED, fit
from acfun.commands.generate import generate
from acfun.commands.import_lora import import_lora
from acfun.commands.push import push
from acfun.commands.replay import replay
from acfun.commands.session import print_error, print_message
from acfun.commands.show import show
from acfun.commands.stylize import stylize
from acfun.errors import AcfunError
from acfun.process import allow_mps_fallback, restart_with_malloc_settings

# What pydantic, which reads options for typer, calls them.
RANGE_ERRORS = {"less_than_equal", "greater_than_equal"}


class ExplainingGroup(TyperGroup):
    """Turns explained errors into a message and an exit code; any other error is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AcfunError as error:
            print_error(error, self._list_options(ctx))
            raise typer.Exit(1) from error
        except typer.BadParameter as error:
            name_value(error)
            raise
        except KeyboardInterrupt as error:
            print_message("interrupted")
            raise typer.Exit(INTERRUPTED) from error

    def _list_options(self, ctx: Any) -> set[str]:
        """Names of what the command that runs can be given."""
        command = self.get_command(ctx, ctx.invoked_subcommand)
        return set() if command is None else {str(option.name) for option in command.params}


def name_value(error: typer.BadParameter) -> None:
    """Say the value and the range of an option that is out of it, which typer leaves out."""
    least, most = (getattr(error.param, side, None) for side in ("min", "max"))
    cause: Any = error.__cause__
    found: dict[str, Any] = cause.errors()[0] if hasattr(cause, "errors") else {}
    if found.get("type") in RANGE_ERRORS:
        bounds = ("" if least is None else f"{least}<="), ("" if most is None else f"<={most}")
        error.message = f"{found['input']} is not in the range {'x'.join(bounds)}."


app = typer.Typer(
    name="acfun",
    cls=ExplainingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (stylize, fit, apply, show, export, push, import_lora, generate, replay, benchmark, doctor, demo):
    app.command()(command)


def print_version(is_asked: bool) -> None:
    """Print the version and stop."""
    if is_asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """One-shot face stylization: a photograph painted in the manner of one picture."""


def main() -> None:
    """Run the command line of this process."""
    allow_mps_fallback()
    restart_with_malloc_settings()
    app()


if __name__ == "__main__":
    main()
