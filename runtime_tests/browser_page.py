"""A bundle's page in a real browser, which a test drives as a person would: by typing, clicking and reading."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import RuntimeUnavailableError
from edgeq.runtimes.browser.packages import package_directory
from edgeq.runtimes.browser.programs import CHROMIUM_REMEDY, find_chromium, find_node

SCRIPT = Path(__file__).with_name("page.mjs")
PHONE_WIDTH = 375


class Page:
    """The one page of a browser; selectors are those of CSS."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, url: str) -> None:
        """Open the page, and wait until it has read the bundle's manifest or said why not."""
        self.do("open", url=url)
        self.wait("!document.getElementById('load-button').disabled || !document.getElementById('error').hidden")

    def load(self) -> str:
        """Load the model: what the page says then."""
        return self.press("#load-button", "#load-status")

    def press(self, button: str, status: str) -> str:
        """Click a button, wait until it can be clicked again: what the status says then."""
        self.click(button)
        self.wait(f"!document.querySelector({button!r}).disabled")
        return self.text(status)

    def click(self, selector: str) -> None:
        self.do("click", selector=selector)

    def type(self, selector: str, text: str) -> None:
        self.do("type", selector=selector, text=text)

    def choose(self, selector: str, value: str) -> None:
        self.do("choose", selector=selector, value=value)

    def text(self, selector: str) -> str:
        return str(self.evaluate(f"document.querySelector({selector!r}).textContent"))

    def error(self) -> str | None:
        """What the page shows as gone wrong, None where nothing did."""
        return None if self.evaluate("document.getElementById('error').hidden") else self.text("#error")

    def wait(self, condition: str) -> None:
        self.do("wait", condition=condition)

    def evaluate(self, script: str) -> Any:  # noqa: ANN401 - whatever the script is about
        """The value of a script, awaited."""
        return self.do("evaluate", script=script)

    def requests(self) -> list[str]:
        """Paths of what was fetched since it was asked last."""
        return [url.partition("//")[2].partition("/")[2] for url in self.do("requests") if not url.startswith("blob:")]

    def do(self, command: str, **argument: str) -> Any:  # noqa: ANN401
        """Have the script carry out one of its commands."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **argument}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        return answer["result"]


def require_browser() -> tuple[Path, Path, Path]:
    """Chromium, Node and the npm packages. Skips where this machine lacks one; in CI that is an error."""
    try:
        chromium, node, packages = find_chromium(), find_node(), package_directory()
        if chromium is None:
            raise RuntimeUnavailableError("There is no Chromium.", remedy=CHROMIUM_REMEDY)
    except RuntimeUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return chromium, node, packages


@contextmanager
def browser_page(*, width: int = 1000, webgpu: bool = False) -> Iterator[Page]:
    """A new browser with one page, `width` pixels wide; webgpu: with an adapter, which computes on the CPU.

    Skips where this machine has no browser, no Node or no npm packages; in CI that is an error.
    """
    chromium, node, packages = require_browser()
    settings = json.dumps({"width": width, "webgpu": webgpu})
    command = [str(node), str(SCRIPT), str(packages / "playwright-core" / "index.js"), str(chromium), settings]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Page(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(30)
        finally:
            process.kill()
