"""A real Chromium for the tests that look at pages.

It needs an installed Chromium (`apt-get install chromium`; `.ci/run` does). Playwright's own download is not used.
"""

import gc
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CUSA_CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), "")
WAIT = 60_000  # milliseconds; a busy machine is slow

needs_browser = [
    pytest.mark.skipif(not CHROMIUM, reason=f"no browser is installed ({', '.join(NAMES)}; or set CUSA_CHROMIUM)"),
    # The driver leaves its pipes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"], timeout=WAIT
        )
        yield opened
        opened.close()
    gc.collect()  # here, where what the driver leaves open is no error
