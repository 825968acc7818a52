"""Draw page.png, the README's picture of the demo's page: ``python docs/pictures/make_page.py`` (playwright, Pillow, and Chromium).

It shows the bundled clips and codec as ``duotone demo`` makes them, while the second version plays.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1180, 900
CLIP, VERSION, SECONDS = 1, 1, 2.6  # the composed piece, the codec's tokens, and where the playhead stands
WAIT_MS = 120_000


def main() -> None:
    """Make the page and take its picture."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("No Chromium was found (Debian: apt install chromium): docs/pictures/page.png is left as it is.")
    target = Path(__file__).with_name("page.png")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "page.html"
        subprocess.run([sys.executable, "-m", "duotone", "demo", "-o", str(page)], check=True)
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        shown = started.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        shown.goto(page.as_uri())
        shown.evaluate(f"openClip({CLIP}); choose({VERSION}); player.seek({SECONDS});")
        shown.wait_for_function(f"document.getElementById('stack').dataset.drawn === '{CLIP}/near'", timeout=WAIT_MS)
        picture = Image.open(io.BytesIO(shown.screenshot()))
        started.close()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
