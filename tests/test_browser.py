"""The pages in a headless Chromium, where there is one."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from test_page import collect, report
from test_review import FIRST, result, served, serving  # noqa: F401  (a fixture)

from stmcli import page, painting
from stmcli.maskpaint import NewMask
from stmcli.masks import read_values, write_labels
from stmcli.page import write_batch_page, write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the pages were not opened in a browser")

WIDTHS = """<script>
document.documentElement.dataset.widths = JSON.stringify([document.documentElement.scrollWidth, innerWidth,
  [...document.images].every(image => image.complete && image.naturalWidth > 0)]);
</script>"""
HEIGHT = "document.documentElement.dataset.height = document.querySelector('{}').getBoundingClientRect().height;"
DRIVER = """
setTimeout(async () => {
  const press = (kind, x, y) => canvas.dispatchEvent(new PointerEvent(kind,
    {clientX: canvas.getBoundingClientRect().left + x, clientY: canvas.getBoundingClientRect().top + y, button: 0}));
  canvas.setPointerCapture = () => {};
  const size = clip.width / canvas.getBoundingClientRect().width;
  $("width").value = 10;
  press("pointerdown", 20 / size, 30 / size); press("pointermove", 40 / size, 30 / size); press("pointerup", 0, 0);
  await send("POST");
  document.documentElement.dataset.done = $("state").textContent;
}, 1500);
"""
OUTLINE = """
setTimeout(async () => {
  const ring = step => [160 + 72 * Math.cos(step * Math.PI / 30), 120 + 72 * Math.sin(step * Math.PI / 30)];
  $("width").value = 6;
  for (let step = 0; step < 60; step++) stroke(ring(step), ring(step + 1));
  fill();
  await fit();
  await send("POST");
  document.documentElement.dataset.done = $("state").textContent;
}, 1500);
"""

LONG = """
setTimeout(async () => {
  stroke([20, 30], [40, 30]);
  await send("POST");
  const {dataset, scrollWidth} = document.documentElement;
  dataset.done = [scrollWidth <= innerWidth, $("command").innerText === $("command").textContent];
}, 1500);
"""


def browse(url, tmp_path, *, width=1200, height=900):
    """Return the page as the browser holds it in the end, and what it complained about."""
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += [f"--window-size={width},{height}", "--virtual-time-budget=6000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*words, url], capture_output=True, text=True, timeout=120, check=True)
    return html.unescape(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [1200, 500])
def test_a_report_opens_without_complaints_and_does_not_scroll_sideways(tmp_path, width):
    sure = np.random.default_rng(0).uniform(0.2, 0.9, 60).round(3).tolist()
    path = tmp_path / "a report & more.html"
    write_page(path, report(sure, name="a" * 120 + ".mp4", cut=(20,)), collect(sure))
    path.write_text(path.read_text().replace("</html>", WIDTHS + "</html>"))
    text, complaints = browse(path.as_uri(), tmp_path, width=width)
    assert complaints == []
    scroll, inner, whole = re.search(r'data-widths="\[(\d+),(\d+),(\w+)\]"', text).groups()
    assert int(scroll) <= int(inner)
    assert whole == "true"


def test_a_stroke_painted_in_the_browser_becomes_a_correction(tmp_path, result, monkeypatch):  # noqa: F811
    assets = shutil.copytree(page.ASSETS, tmp_path / "assets")
    script = assets / "paint.js"
    script.write_text(script.read_text() + DRIVER)
    monkeypatch.setattr(painting, "ASSETS", assets)
    with serving(result) as server:
        text, complaints = browse(server.url, tmp_path)
    assert complaints == []
    number = FIRST + 2  # the only doubtful frame is shown first
    assert f"frame {number}" in text
    before = read_values(result / "masks" / f"{number:05d}.png")
    after = read_values(result / "corrections" / f"{number:05d}.png")
    assert not before[30, 20:41].any()
    assert (after[30, 20:41] == 3).all()
    rows, columns = np.nonzero(after != before)
    assert columns.min() >= 18
    assert columns.max() <= 42
    assert abs(rows - 30).max() <= 2


def test_a_mask_is_outlined_filled_fitted_and_saved_in_the_browser(tmp_path, monkeypatch):
    y, x = np.mgrid[:240, :320]
    inside = np.hypot(x - 160, y - 120) < 70
    frame = np.where(inside[..., None], (200, 60, 30), (40, 120, 160)).astype(np.uint8)
    (tmp_path / "frames").mkdir()
    Image.fromarray(frame).save(tmp_path / "frames" / "7.png")
    assets = shutil.copytree(page.ASSETS, tmp_path / "assets")
    script = assets / "paint.js"
    script.write_text(script.read_text() + OUTLINE)
    monkeypatch.setattr(painting, "ASSETS", assets)
    with served(NewMask(tmp_path / "frames", tmp_path / "m.png")) as server:
        text, complaints = browse(server.url, tmp_path)
    assert complaints == []
    assert f'data-done="saved as {tmp_path / "m.png"}"' in text
    assert f"stm segment {tmp_path / 'frames'} --mask {tmp_path / 'm.png'}" in text
    found = read_values(tmp_path / "m.png") == 1
    assert (found & inside).sum() > 0.97 * (found | inside).sum()


def test_long_names_fit_into_a_narrow_window_and_spaces_can_be_copied(make_clip, tmp_path, monkeypatch):
    assets = shutil.copytree(page.ASSETS, tmp_path / "assets")
    script = assets / "paint.js"
    script.write_text(script.read_text() + LONG)
    monkeypatch.setattr(painting, "ASSETS", assets)
    with served(NewMask(make_clip(), tmp_path / f"two  spaces{'n' * 150}.png")) as server:
        text, complaints = browse(server.url, tmp_path, width=500)
    assert complaints == []
    assert 'data-done="true,true"' in text


def test_the_page_of_many_clips_stays_readable_in_a_narrow_window(tmp_path):
    clips = [{"clip": "bad.mp4", "output": "bad", "status": "failed", "error": "the file was cut short: " * 5}]
    (tmp_path / "summary.json").write_text(json.dumps({"results": clips}))
    path = write_batch_page(tmp_path)
    path.write_text(path.read_text().replace("</html>", f"<script>{HEIGHT.format('.scroll')}</script></html>"))
    text, complaints = browse(path.as_uri(), tmp_path, width=500)
    assert complaints == []
    assert float(re.search(r'data-height="([\d.]+)"', text)[1]) < 400


def test_a_frame_that_is_higher_than_wide_is_seen_whole(tmp_path, result, monkeypatch):  # noqa: F811
    for place in range(3):
        name = f"{FIRST + place:05d}.png"
        Image.fromarray(picture(place)).rotate(90, expand=True).save(tmp_path / "frames" / name)
        write_labels(result / "masks" / name, np.zeros((64, 48), np.uint8))
    assets = shutil.copytree(page.ASSETS, tmp_path / "assets")
    script = assets / "paint.js"
    script.write_text(script.read_text() + f"setTimeout(() => {{ {HEIGHT.format('#stage')} }}, 1500);")
    monkeypatch.setattr(painting, "ASSETS", assets)
    with serving(result) as server:
        text, _ = browse(server.url, tmp_path, height=900)
    assert 400 < float(re.search(r'data-height="([\d.]+)"', text)[1]) <= 0.78 * 900 + 1
