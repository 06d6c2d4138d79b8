"""`acfun doctor`: whether this machine and this installation can do the work."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from acfun.commands import options
from acfun.commands.session import Session, refuse_useless

if TYPE_CHECKING:
    from acfun.planner import Plan

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


Faces = Annotated[
    str | None, typer.Option(help="Also check a pack of face models, a folder, or an ArcFace-type *.onnx.")
]


BaseShape = Annotated[
    str | None, typer.Option("--base", help="Also plan a fit on this base: sd1, sd2, sdxl, mini or a diffusers folder.")
]


def doctor(
    context: typer.Context,
    *,
    faces: Faces = None,
    base: BaseShape = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Check versions, devices, optional libraries, the embedded base and the cache; exit code 1 on real problems."""
    from acfun.doctor import examine

    refuse_useless(context, ("device",), "--base", is_there=base is not None)
    checks = examine(faces)
    plans, rate = ({}, 0.0) if base is None else plan(base, device)
    has_problem = any(check.status == "problem" for check in checks)
    if as_json:
        result: dict[str, Any] = {"is_healthy": not has_problem, "checks": [asdict(check) for check in checks]}
        if plans:
            result["plans"] = {tier: None if one is None else asdict(one) for tier, one in plans.items()}
            result["flops_per_second"] = rate
        Session(as_json=True).finish(result, "")
    else:
        console = Console()
        for check in checks:
            console.print(
                Text(f"{check.status:8}", COLOURS[check.status]), f"{check.name}: {check.detail}", soft_wrap=True
            )
            if check.remedy:
                console.print(f"         → {check.remedy}", soft_wrap=True, markup=False)
        if plans:
            console.print(tabulate(f"a fit on {base}", plans, rate))
    if has_problem:
        raise typer.Exit(1)


def plan(base: str, device_name: str) -> "tuple[dict[str, Plan | None], float]":
    """Plans of a fit by tier, and operations a second of this machine.

    Raises:
        BaseNotFoundError: there is no such base.
        ConfigError: the device is not there.
    """
    from acfun.base import FAMILIES
    from acfun.base.architectures import find_architecture
    from acfun.base.loading import choose_dtype
    from acfun.config import FitConfig
    from acfun.devices import select_device
    from acfun.planner import measure_rate, plan_tiers

    device, architecture = select_device(device_name), find_architecture(base)
    rate = measure_rate(choose_dtype(FAMILIES[architecture.family], device), device)
    return plan_tiers(architecture, FitConfig(style_path=""), device), rate


def tabulate(title: str, plans: "Mapping[str, Plan | None]", rate: float) -> Table:
    """A row a tier: what is done, the predicted peak, and a step's time at `rate` operations a second."""
    table = Table("--memory", "measures", "GB at most", "seconds a step here", title=title)
    for tier, one in plans.items():
        figures = ["does not fit", "", ""]
        if one is not None:
            figures = [one.measures.name, f"{one.peak_bytes / 1e9:.1f}", f"{one.step_flops / rate:.2g}"]
        table.add_row(tier, *figures)
    return table
