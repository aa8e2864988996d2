"""The verb `serve`: a browser bundle's page on this machine."""

from __future__ import annotations

from pathlib import Path
from time import sleep
from typing import Annotated

from typer import Option

from edgeq.cli import flags, show
from edgeq.errors import EXIT_DONE, UsageError

PORT = 8000
_LONG = 3600

Port = Annotated[int, Option(help="Of 127.0.0.1; 0: one that is free.", metavar="N", min=0, max=65535)]


def serve(*, bundle: flags.Bundle, port: Port = PORT) -> int:
    """Check a browser bundle, and serve it to this machine's browsers until Ctrl-C."""
    from edgeq.runtimes.browser.server import serve as serving

    check_bundle(bundle)
    with serving(bundle, port=port) as server:
        show.piece(f"{server.url}  (Ctrl-C ends it)\n")
        wait()
    return EXIT_DONE


def check_bundle(bundle: Path) -> None:
    """Raises UsageError for a bundle without a page, and as `edgeq.bundle.manifest.verify`."""
    from edgeq.bundle.manifest import verify

    manifest = verify(bundle)
    if manifest.surface != "browser":
        raise UsageError(
            f"{bundle} is for {manifest.target}: it has no page.", remedy="Export it with --target browser."
        )


def wait() -> None:
    """Return once the user presses Ctrl-C."""
    try:
        while True:
            sleep(_LONG)
    except KeyboardInterrupt:
        pass
