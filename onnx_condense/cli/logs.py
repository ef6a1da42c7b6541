"""What the library logs, on standard error: a line for each message."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from onnx_condense.cli.streams import complain


class _Lines(logging.Handler):
    """Prints messages below warnings, which commands print themselves, once they are done."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one."""
        if record.levelno < logging.WARNING:
            complain(record.levelname.lower(), f"{record.name.removeprefix('onnx_condense.')}: {record.getMessage()}")


@contextmanager
def logged(level: int) -> Iterator[None]:
    """Prints what is logged from a level on."""
    if level >= logging.WARNING:
        yield
        return
    logger, handler = logging.getLogger("onnx_condense"), _Lines()
    before = logger.level
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
