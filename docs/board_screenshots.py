"""Open a run in TensorBoard in headless Chromium and take pictures of it.

    python docs/board_screenshots.py RUN FOLDER

writes board-images.png, board-images-later.png and board-series.png into FOLDER; the first two are a moment apart:
the growth moves. Needs Chromium, its driver, and selenium (extra `dev`).
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


def available() -> bool:
    """Whether Chromium and its driver are here."""
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


@contextlib.contextmanager
def board(runs: Path) -> Iterator[str]:
    """`progan board` on a free port; yields its address once it answers and has found the pictures."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "progan", "board", str(runs), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://localhost:{port}/"
        _wait_for(address + "data/plugin/images/tags")
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(address: str, limit_sec: float = 90) -> None:
    deadline = time.monotonic() + limit_sec
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            if b"growth" in answer.read():
                return
        time.sleep(0.5)
    raise TimeoutError(f"TensorBoard did not answer within {limit_sec:.0f} s")


@contextlib.contextmanager
def browser(width: int = 1900, height: int = 1720) -> Iterator[webdriver.Chrome]:
    """Headless Chromium with a profile of its own."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for option in (*CHROMIUM_OPTIONS, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
            options.add_argument(option)
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def open_images(driver: webdriver.Chrome, address: str) -> dict[str, WebElement]:
    """Go to the images page, open all groups and wait for the pictures: {tag: the <img>'s loader}."""
    driver.get(address + "#images")
    wait = WebDriverWait(driver, 60)
    wait.until(lambda d: _shown(d).get("growth"))
    driver.execute_script(_OPEN_GROUPS)
    wait.until(lambda d: {"growth", "walk"} <= _shown(d).keys() and len(_shown(d)) >= 6)
    time.sleep(2)  # the pictures themselves
    return _shown(driver)


_DEEP = """
function* deep(root) {
  for (const e of root.querySelectorAll('*')) { yield e; if (e.shadowRoot) yield* deep(e.shadowRoot); }
}
"""
_OPEN_GROUPS = (
    _DEEP
    + """
for (const e of deep(document)) {
  if (e.tagName === 'TF-CATEGORY-PAGINATED-VIEW') e.opened = true;
}
"""
)
_LOADERS = (
    _DEEP
    + """
const found = {};
for (const e of deep(document)) if (e.tagName === 'TF-IMAGE-LOADER' && e.offsetHeight > 50) found[e.tag] = e;
return found;
"""
)


def _shown(driver: webdriver.Chrome) -> dict[str, WebElement]:
    found: dict[str, WebElement] = driver.execute_script(_LOADERS)
    return found


def open_series(driver: webdriver.Chrome, address: str) -> None:
    """Go to the time series of Progress: resolution, alpha, batch, rates."""
    driver.get(address + "?tagFilter=Progress#timeseries")
    WebDriverWait(driver, 60).until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "scalar-card")) >= 6)
    time.sleep(3)


def main(run: Path, folder: Path) -> None:
    """Write the three pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with board(run) as address, browser() as driver:
        open_images(driver, address)
        for name in ("board-images", "board-images-later"):
            driver.save_screenshot(str(folder / f"{name}.png"))
            time.sleep(1.3)
        open_series(driver, address)
        driver.save_screenshot(str(folder / "board-series.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
