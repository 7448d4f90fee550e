"""TensorBoard on a recipe's work directory, as a user sees it: needs Chromium, and `pip install playwright`.

python -m pytest tests/browser -s     # prints where the screenshots are
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
PATIENCE = 60_000
"""Milliseconds that a tab may take to fill."""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("browser") / "relaxation"
    command = [sys.executable, str(ROOT / "recipes" / "relaxation.py"), "--workdir", str(workdir)]
    command += ["--epochs-scale", "0.02", "--units", "1", "1"]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return workdir


@pytest.fixture(scope="module")
def address(workdir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(workdir), "--port", str(port)]
    server = subprocess.Popen([*command, "--load_fast=false"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://localhost:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *WEBGL])
        yield chromium
        chromium.close()


@pytest.fixture
def look(address, browser, tmp_path):
    """Opens a tab, waits for something in it, and takes a screenshot."""

    def look_at(tab, selector):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}/#{tab}")
        frames, deadline = [], time.monotonic() + PATIENCE / 1000
        while not frames and time.monotonic() < deadline:
            page.wait_for_timeout(500)
            frames = [frame for frame in page.frames if frame.locator(selector).count()]
        page.wait_for_timeout(1000)
        page.screenshot(path=tmp_path / f"{tab}.png")
        print(tmp_path / f"{tab}.png")
        assert frames, f"the tab '{tab}' shows no '{selector}'"
        return frames[0].locator(selector)

    return look_at


def test_scalars(look):
    assert look("scalars", "text=entropy_across_module_2/iteration_1").count() >= 1
    for section in ("unit_use_module_1", "entropy_within_module_2", "epoch_gradient_norm_controllers"):
        assert look("scalars", f"text={section}").count() >= 1


def test_images(look):
    pictures = look("images", "tf-image-loader img")
    assert pictures.count() == 4  # figure 6 of each stage that trains routing
    assert pictures.first.evaluate("image => image.naturalWidth") > 300


def test_histograms(look):
    assert look("histograms", "text=scores_module_1/iteration_1").count() >= 1


def test_hparams(look):
    assert look("hparams", "text=relaxation/finetune").count() >= 1


def test_projector(look):
    assert look("projector", "text=Points: 512").count() == 1


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_fits_its_window(workdir, browser, tmp_path, width):
    page = browser.new_page(viewport={"width": width, "height": 1000})
    failures = []
    page.on("requestfailed", lambda request: failures.append(request.url))
    page.goto((workdir / "report.html").as_uri())
    page.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)
    print(tmp_path / f"report-{width}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
    assert len(pictures) >= 10
    assert min(pictures) > 100
    assert not failures
