"""What every test finds: no arm64 kernels beside this machine's, whatever is installed on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgeq.runtimes.arm64.lock import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def no_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each export would run a second time, and its report would depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("no-emulator")))
        yield
