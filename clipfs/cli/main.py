"""The command `clipfs`: its subcommands, loaded when called, and how each of them ends.

Exit codes: 0 done; 1 failed, with one clear line (with `--json` an object with "error" on
stdout); 2 usage. What is neither a ClipError nor a disk's refusal is a bug: it is logged with
its traceback.
"""

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import click

from clipfs import errors
from clipfs.cli import logs
from clipfs.log import log

COMMANDS = {  # name -> (module, attribute); a mount must not pay for the others' imports
    "mount": ("clipfs.cli.mount", "mount"),
    "unmount": ("clipfs.cli.unmount", "unmount"),
    "index": ("clipfs.cli.index", "index"),
    "ls": ("clipfs.cli.ls", "ls"),
    "stats": ("clipfs.cli.stats", "stats"),
    "cache": ("clipfs.cli.cache", "cache"),
    "content-cache": ("clipfs.cli.content_cache", "content_cache"),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        gc.disable()  # what modules make stays, and need not be looked through for garbage
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        finally:
            gc.freeze()
            gc.enable()
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="clip-csi", prog_name="clipfs")
def clipfs() -> None:
    """OCI images as file systems: mounted at once, read lazily through three tiers."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    logs.configure("text", "info")
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = ended(
        lambda: clipfs.main(words, "clipfs", standalone_mode=False), words, program="clipfs"
    )
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)  # what the modules made need not be taken apart: that takes 15 ms


def ended(command: Callable[[], object], words: Sequence[str], *, program: str) -> int:
    """Call command and say how it ended: the exit code, the one line, the JSON object."""
    try:
        outcome = command()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted", "interrupted", words, program)
    except errors.ClipError as error:
        return _failed(error.code, str(error), words, program)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if errors.is_the_disks(error):
            named = errors.node_fault(error)
            return _failed(named.code, str(named), words, program)
        log.exception("this is a bug")
        return _failed(errors.ClipError.code, f"internal error: {error!r}", words, program)
    return outcome if isinstance(outcome, int) else 0  # click makes Exit(1) of a command a 1


def _failed(code: str, message: str, words: Sequence[str], program: str) -> int:
    if "--json" in words:
        with suppress(OSError):  # it may be stdout that is full
            print(json.dumps({"error": {"code": code, "message": message}}), flush=True)
    logs.say_failure(program, code, message)
    return 1


if __name__ == "__main__":
    run()
