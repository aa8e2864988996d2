"""Every failure has one class, one exit code and a message that says what happened, why, and what to do."""

from __future__ import annotations

from typing import ClassVar

EXIT_DONE = 0
EXIT_GATE_FAILED = 1
EXIT_USAGE = 2
EXIT_RUNTIME_UNAVAILABLE = 3
EXIT_BAD_INPUT = 4
EXIT_INTERNAL = 5


class EdgeqError(Exception):
    """A failure with a name. `what` happened and why, in one sentence; `remedy` is what the user does about it."""

    exit_code: ClassVar[int] = EXIT_INTERNAL

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy


class UsageError(EdgeqError):
    """A flag, a file of settings or an argument that cannot be meant."""

    exit_code = EXIT_USAGE


class UnknownNameError(UsageError):
    """A target, method, format or key that does not exist; the remedy offers the nearest one."""


class SourceNotFoundError(UsageError):
    """The model is neither a directory here nor reachable on the hub."""


class UnsupportedModelError(UsageError):
    """A model that edgeq understands but cannot turn into what was asked for."""


class OutputError(UsageError):
    """The output cannot be written: it exists, the disk is full, or permission is missing."""


class RuntimeUnavailableError(EdgeqError):
    """A runtime or an emulation that the verdict needs is not on this machine."""

    exit_code = EXIT_RUNTIME_UNAVAILABLE


class BadInputError(EdgeqError):
    """Base of inputs that are refused for what they contain."""

    exit_code = EXIT_BAD_INPUT


class UnsafeInputError(BadInputError):
    """An input that could run code or reach outside its directory."""


class CorruptInputError(BadInputError):
    """An input whose bytes contradict what they announce."""


class InternalError(EdgeqError):
    """A defect of edgeq itself."""

    exit_code = EXIT_INTERNAL
