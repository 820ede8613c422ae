"""Log lines on stderr: for people by default, one JSON object a line on request."""

import sys
from collections.abc import Mapping, MutableMapping
from functools import partial
from typing import Any, Literal

import msgspec

from clipfs.cli.output import printable
from clipfs.log import log

LogFormat = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")

_format: LogFormat = "text"
_fields: dict[str, str] = {}


def configure(log_format: LogFormat, level: str) -> None:
    """Say how this process logs; a level below `level` costs a reader next to nothing."""
    global _format
    _format = log_format
    unheard = LEVELS[: LEVELS.index(level)]
    log.set_up_by(partial(_set_up, log_format, level), unheard=unheard)


def add_fields(fields: Mapping[str, str]) -> None:
    """Have each line from now on carry them, but where it has a field of that name itself."""
    _fields.update(fields)


def add_fields_said(text: str) -> None:
    """The same, as `--log-fields` says them."""
    add_fields(msgspec.json.decode(text, type=dict[str, str]))


def hear_others() -> None:
    """Have what libraries log, and what ends a thread, come as lines of this log, too."""
    import logging
    import threading

    class Libraries(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = record.levelname.lower()
            say = getattr(log, level if level in LEVELS else "error")
            say(record.getMessage(), logger=record.name, exc_info=record.exc_info)

    def on_death(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and args.exc_type is not SystemExit:
            log.error("a thread has ended, this is a bug", exc_info=args.exc_value)

    logging.basicConfig(level=logging.WARNING, handlers=[Libraries()])
    threading.excepthook = on_death


def _set_up(log_format: LogFormat, level: str) -> None:
    import logging

    import structlog

    last: structlog.typing.Processor
    if log_format == "json":
        last = structlog.processors.JSONRenderer()
        # a traceback as text: structlog's dict_tracebacks would log locals, and so secrets
        errors: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    else:
        last = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        errors = [_printable_values]
    structlog.configure(
        processors=[
            _with_fields,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *errors,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=_Stderr,
        cache_logger_on_first_use=True,
    )


def say_failure(program: str, code: str, message: str) -> None:
    """The line that a failed command ends with: words, or where all lines are JSON an object."""
    if _format == "json":
        log.error("failed", program=program, code=code, error=message)
    else:
        print(f"{program}: {printable(message)}", file=sys.stderr, flush=True)


def _with_fields(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**_fields, **event}


def _printable_values(
    _: object, __: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A terminal must not obey what a name in an image says; JSON escapes by itself."""
    return {key: _printable(key, value) for key, value in event.items()}


def _printable(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if key == "exception":  # of a worker: a traceback as text, with its lines
        return "\n".join(map(printable, value.splitlines()))
    return printable(value)


class _Stderr:
    """Writes whole lines to descriptor 2, which a server redirects; a full disk loses them."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, message: str) -> None:
        try:
            sys.stderr.write(message + "\n")
            sys.stderr.flush()
        except OSError:  # there is nowhere left to say so
            pass

    debug = info = warning = error = critical = exception = fatal = log = msg
