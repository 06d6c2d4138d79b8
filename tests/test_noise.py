"""Loading shows nothing of what other libraries say there, and leaves them as talkative as they were."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from acfun.noise import IDLE_MESSAGES, without_bars, without_messages
from tests.tiny import save_tiny_checkpoint

LOAD = """
import sys, acfun
acfun.FaceStylizationPipeline, acfun.FaceStylizationXLPipeline
acfun.build_pipeline(acfun.load_base(sys.argv[1]))
"""


def test_loading_says_nothing(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path)
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(("name", "text"), IDLE_MESSAGES.items())
def test_other_messages_are_shown_and_these_afterwards(name: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    with without_messages():
        logger.error("one %s", text)
        logger.error("two")
    logger.error("three %s", text)
    logger.removeHandler(caplog.handler)
    assert list(dict.fromkeys(record.getMessage().split()[0] for record in caplog.records)) == ["two", "three"]


def test_bars_are_as_before() -> None:
    def look() -> tuple[bool, ...]:
        libraries = (diffusers_logging, transformers_logging)
        return are_progress_bars_disabled(), *(bool(each.is_progress_bar_enabled()) for each in libraries)

    before = look()
    with without_bars():
        assert look() == (True, False, False)
    assert look() == before
