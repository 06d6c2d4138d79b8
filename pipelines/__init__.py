"""Diffusers pipelines, one class a file; installed as `acfun.pipelines`."""

import importlib
from typing import Any

from acfun.base import FAMILIES, Base
from acfun.noise import without_messages


def build_pipeline(base: Base) -> Any:
    """The pipeline that paints with a base of this family, around the base's modules."""
    module, name = FAMILIES[base.family].stylization_pipeline
    with without_messages():
        return getattr(importlib.import_module(f"acfun.pipelines.{module}"), name).from_base(base)
