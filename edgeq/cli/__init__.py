"""The command line: verbs that are each one library call. The only package that prints and exits."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from edgeq.errors import EXIT_INTERNAL, EdgeqError

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
GC_THRESHOLD = 50_000
CHATTY = ("torchao", "torch.utils._pytree", "coremltools", "executorch")
"""Loggers that warn of versions and missing CUDA libraries whenever they are imported."""
SHOW_TRACEBACK = "EDGEQ_TRACEBACK"


def main() -> None:
    """The entry point of the `edgeq` command."""
    if not sys.warnoptions:
        # Warnings of frameworks speak to whoever calls them, which the user of a command does not.
        warnings.simplefilter("ignore")
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    # Tracing a model makes millions of short-lived objects: collecting less often saves a twentieth of an export.
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    _leave(run())


def _leave(code: int) -> NoReturn:
    """End the process at once: torch takes a second to take itself down, and nothing of ours is left to do."""
    logging.shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name): its exit code. Every failure is one line on stderr."""
    try:
        return _invoke(arguments)
    except KeyboardInterrupt:  # outside of typer, while modules load
        return _fail("Interrupted.", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader went away; what Python still holds for it must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except EdgeqError as error:
        _raise_if_asked()
        return _fail(str(error), error.exit_code)
    except Exception as error:
        _raise_if_asked()
        reason = f"{type(error).__name__}: {error}"
        return _fail(f"Internal error: {reason} (run again with {SHOW_TRACEBACK}=1)", EXIT_INTERNAL)


def _invoke(arguments: Sequence[str] | None) -> int:
    import typer

    from edgeq.cli.verbs import app

    try:
        result: object = app(args=arguments, prog_name="edgeq", standalone_mode=False)
    except typer.Abort as error:  # how typer passes an EOFError on
        raise error.__cause__ or error from None
    except typer.TyperException as error:
        return _fail(error.format_message(), error.exit_code)
    if result == EXIT_INTERRUPTED:  # how typer passes a KeyboardInterrupt on
        return _fail("Interrupted.", EXIT_INTERRUPTED)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _raise_if_asked() -> None:
    if os.environ.get(SHOW_TRACEBACK, "") not in ("", "0"):
        raise  # noqa: PLE0704 - called from an except clause, whose error this is


def _fail(message: str, code: int) -> int:
    print(f"edgeq: {' '.join(message.split())}", file=sys.stderr)
    return code
