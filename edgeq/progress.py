"""Progress: what long work tells whoever watches. The library never prints; the command line shows this on stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Advance = Callable[[int, int, str], None]
"""`(units done, units in all, the one in work)`: `Progress.advance`, for work that knows of no stages."""


class Progress(Protocol):
    """A listener. Calls come in order from one thread: a stage, then any number of advances and notes within it."""

    def stage(self, name: str) -> None:
        """A new step begins; the one before it is done. `name` is a verb in the -ing form: "quantizing"."""
        ...

    def advance(self, done: int, total: int, detail: str) -> None:
        """`done` of `total` units of the current stage are finished; `detail` names the unit in work."""
        ...

    def note(self, text: str) -> None:
        """One line that the user should see even after the work is done, such as a fallback and its cost."""
        ...


class SilentProgress:
    """The default: nobody watches."""

    def stage(self, name: str) -> None:
        pass

    def advance(self, done: int, total: int, detail: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass
