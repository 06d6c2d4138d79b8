"""What diffusers and transformers say while acfun loads with them, and nobody can act on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Whose messages, and what these contain. Nothing is to be kept in float32; acfun reads pictures without torchvision.
IDLE_MESSAGES = {
    "diffusers.models.modeling_utils": "should be kept in float32: []",
    "transformers.utils.import_utils": "requires torchvision",
}


@contextmanager
def without_messages() -> Iterator[None]:
    """Inside the block `IDLE_MESSAGES` are not shown; nothing heavy is loaded for it."""
    loggers = [logging.getLogger(name) for name in IDLE_MESSAGES]
    for logger in loggers:
        logger.addFilter(_is_useful)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_useful)


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside the block diffusers and transformers show no progress bars; they and the hub's come back after it."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    is_hub_quiet = are_progress_bars_disabled()
    loud = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    for each in loud:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in loud:
            each.enable_progress_bar()
        if is_hub_quiet:
            disable_progress_bars()


def _is_useful(record: logging.LogRecord) -> bool:
    return IDLE_MESSAGES[record.name] not in record.getMessage()
