"""Chromium without a window, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def dumped_page(address: str, folder: Path, *options: str) -> str:
    """The page as Chromium has it after it ran its scripts.

    Args:
        folder: where the browser may put its profile.
    """
    common = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    run = subprocess.run(
        [str(CHROMIUM), *common, *options, address], capture_output=True, text=True, timeout=120, check=True
    )
    return run.stdout
