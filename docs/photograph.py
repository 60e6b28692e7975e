"""Make the pictures of README and docs from a finished demo: `make figures`, after `make demo`. Needs chromium.

Writes report-light.png, report-dark.png and report-phone.png into docs/img/.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SHOTS = {
    "report-light.png": ("", "1280,1840"),
    "report-dark.png": ("#dark", "1280,1840"),
    "report-phone.png": ("", "500,1840"),
}


def photograph(browser: str, page: Path, place: str, size: str, out: Path) -> None:
    """Open a page and save what its window shows."""
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}"]
        command = [browser, *flags, f"--window-size={size}", f"--screenshot={out}", page.resolve().as_uri() + place]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main(folder: str = "runs/demo") -> None:
    """Photograph the report of a demo."""
    page = Path(folder) / "report.html"
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None or not page.exists():
        sys.exit(f"needs chromium on the path and {page} (make demo)")
    (HERE / "img").mkdir(exist_ok=True)
    for name, (place, size) in SHOTS.items():
        photograph(browser, page, place, size, HERE / "img" / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
