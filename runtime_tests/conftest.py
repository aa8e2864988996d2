"""What every test finds: no arm64 kernels beside this machine's, unless it asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from edgeq.errors import RuntimeUnavailableError
from edgeq.runtimes.arm64.emulator import find_emulator, host_architecture
from edgeq.runtimes.arm64.lock import VARIABLE

NAMED = os.environ.get(VARIABLE)


@pytest.fixture(scope="session", autouse=True)
def no_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each export would run a second time, and its report would depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("no-emulator")))
        yield


@pytest.fixture(scope="module")
def emulator(no_emulator: None) -> Iterator[None]:
    """The one that `make setup` installs. Skips where there is none; in CI that is an error."""
    with pytest.MonkeyPatch.context() as patch:
        if NAMED is None:
            patch.delenv(VARIABLE)
        else:
            patch.setenv(VARIABLE, NAMED)
        try:
            find_emulator()
        except RuntimeUnavailableError as error:
            if os.environ.get("CI") and host_architecture() == "x86_64":
                raise
            pytest.skip(str(error))
        yield
