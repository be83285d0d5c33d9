"""How log lines look: one line an event, as text or JSON, with the journal's priorities under systemd."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def fields(**values: object) -> Mapping[str, Any]:
    """Return log fields for the `extra` of a logging call; those that are None or empty are left out."""
    return {"fields": {name: value for name, value in values.items() if value not in (None, (), "", [])}}


LEVELS = ("debug", "info", "warning", "error")


def set_up(log_format: str, level: str = "info") -> None:
    """Send the log to standard error as `text` or `json`, from this level on; libraries below warnings stay silent."""
    handler = logging.StreamHandler(sys.stderr)
    prefixed = _is_journal(sys.stderr.fileno())
    handler.setFormatter(_Json(prefixed=prefixed) if log_format == "json" else _Text(prefixed=prefixed))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("jwks_server").setLevel(level.upper())
    logging.captureWarnings(capture=True)


def complain(text: str) -> None:
    """Write the one line that says why a command could not be carried out."""
    prefix = f"<{_PRIORITIES[logging.ERROR]}>" if _is_journal(sys.stderr.fileno()) else ""
    sys.stderr.write(f"{prefix}jwks-server: {' '.join(text.split())}\n")


def _is_journal(descriptor: int) -> bool:
    """Tell whether the descriptor leads to the journal (systemd.exec, $JOURNAL_STREAM)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Line(logging.Formatter):
    """One line an event, with the journal's priority before it where the journal reads."""

    def __init__(self, *, prefixed: bool) -> None:
        super().__init__()
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>" if self._prefixed else ""
        return prefix + self._line(record)

    def _line(self, record: logging.LogRecord) -> str:
        raise NotImplementedError


class _Text(_Line):
    """`2026-05-04T03:02:01.000Z INFO what happened tenant=foo.com …`; the journal has time and level of its own."""

    def _line(self, record: logging.LogRecord) -> str:
        words = [] if self._prefixed else [_timestamp(record), record.levelname]
        words.append(_plain(record.getMessage()))
        words += [f"{name}={_value(value)}" for name, value in getattr(record, "fields", {}).items()]
        if record.exc_info:
            words.append(f"traceback={json.dumps(self.formatException(record.exc_info))}")
        return " ".join(words)


class _Json(_Line):
    """One JSON object a line."""

    def _line(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _plain(text: str) -> str:
    """Return the text on one line, whatever a library or a file name put into it."""
    return text if text.isprintable() else json.dumps(text)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_value, value))
    text = str(value)
    bare = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if bare else json.dumps(text, ensure_ascii=not text.isprintable())
