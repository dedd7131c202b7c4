"""The engine's log lines, handed to Python's logging under the name "quire"."""

import logging

logger = logging.getLogger("quire")


def forward() -> None:
    """Log what the engine has said since the last call."""
    from quire import _core

    for level, message in _core.take_log_lines():
        logger.log(getattr(logging, level.name), message)
