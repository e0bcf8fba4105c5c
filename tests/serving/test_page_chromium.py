"""The pages in a browser: every task's form is used, nothing complains, a screenshot is left.

Screenshots lie in the test's folder: see `pytest --basetemp`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from chromium import Page, executable
from made import exports_unchecked

from dlkit.serving.app import create_app
from dlkit.serving.model import ServedModel, load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from pipelines.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(executable() is None, reason="no Chromium on PATH"),
]

SCRIPT = "<script>alert(1)</script>"
SMALL = "--time-limit 5s"
TRAINED = {
    "digits": "image-classification train --model lenet --epochs 8",
    "text": f"text-generation train {SMALL}",
    "sunspots": f"forecasting train {SMALL}",
    "tumours": f"anomaly-detection train {SMALL}",
    "sensors": f"anomaly-detection train --data sensors.csv --window 16 {SMALL}",
    "odd_digits": f"anomaly-detection train --data digits --normal-class 3 {SMALL}",
    "numbers": f"image-synthesis train --model cgan {SMALL}",
    "other_numbers": f"image-synthesis train --model cyclegan --domains 3,8 {SMALL}",
}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
WIDEST_CHART = (
    "Math.max(...[...document.querySelectorAll('svg.chart')].map((e) => e.viewBox.baseVal.width))"
)
CONTRASTS = """
(() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const hex = style.getPropertyValue(name).trim();
    const part = (at) => {
      const value = parseInt(hex.slice(at, at + 2), 16) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    };
    return 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
  };
  const pairs = [["--on-accent", "--accent"], ["--field", "--page"]];
  for (const name of ["--text", "--quiet", "--accent", "--alarm", "--calm"]) {
    pairs.push([name, "--page"], [name, "--panel"]);
  }
  return pairs.map(([a, b]) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return [a, b, (x + 0.05) / (y + 0.05)];
  });
})()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> list[ServedModel]:
    """A model of each task and kind, trained for seconds."""
    import shutil

    folder, before = tmp_path_factory.mktemp("page-models"), Path.cwd()
    shutil.copytree(empty_store, folder / "mlruns")
    generator = np.random.default_rng(0)
    waves = np.sin(np.arange(600) / 5.0)[:, None] + 0.1 * generator.normal(size=(600, 2))
    lines = [
        f"2024-01-{1 + i // 24:02}T{i % 24:02}:00,{a:.3f},{b:.3f}" for i, (a, b) in enumerate(waves)
    ]
    (folder / "sensors.csv").write_text("\n".join(["stamp,left,right", *lines]))
    served = []
    os.chdir(folder)
    try:
        for name, command in TRAINED.items():
            out = io.StringIO()
            with contextlib.redirect_stdout(out), exports_unchecked():
                assert main([*command.split(), "--json"]) == 0, name
            served.append(load_model(name, Path(json.loads(out.getvalue())["export"])))
    finally:
        os.chdir(before)
    return served


@contextlib.contextmanager
def listening(service: Service, *keys: str) -> Iterator[str]:
    """Serve over a real port."""
    config = uvicorn.Config(create_app(service, keys), port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    service.batcher.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path / "profile")
    page.look()
    yield page
    page.close()


def section(name: str) -> str:
    return f"document.querySelector('section[aria-labelledby=\"model-{name}\"]')"


def submit(page: Page, name: str, wanted: str) -> str:
    """Press the button of a model's form; return what the answer says once it holds `wanted`."""
    page.run(f"{section(name)}.querySelector('button[type=submit]').click()")
    return wait(page, name, wanted)


def wait(page: Page, name: str, wanted: str) -> str:
    found = page.wait(
        f"(() => {{ const form = {section(name)}.querySelector('form');"
        "const problem = form.querySelector('[role=alert]').textContent;"
        "const answer = form.querySelector('.answer');"
        f"return answer.getAttribute('aria-busy') === 'false' && (problem || answer.querySelector({json.dumps(wanted)})) && (problem || answer.innerText || 'drawn'); }})()"
    )
    return found


def choose(page: Page, name: str, file: Path) -> None:
    page.choose(f'section[aria-labelledby="model-{name}"] input[type=file]', file)


def fill(page: Page, name: str, label: str, value: str) -> None:
    """Type into the field of a label."""
    script = (
        f"(() => {{ const label = [...{section(name)}.querySelectorAll('label')]"
        f".find((each) => each.textContent.startsWith({json.dumps(label)}));"
        f"label.control.value = {json.dumps(value)};"
        "label.control.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    page.run(script)


def digit(folder: Path, which: int, side: int | None = None) -> Path:
    """Write a picture of scikit-learn's digits."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    found = digits.images[digits.target == which][0]
    path = folder / f"digit-{which}-{side}.png"
    image = Image.fromarray((found * 255 / 16).astype(np.uint8))
    image.resize((side, side)).save(path) if side else image.save(path)
    return path


def test_every_task_has_a_form_that_works(
    models: list[ServedModel], page: Page, tmp_path: Path
) -> None:
    limits = Limits(body=200_000)
    with listening(Service(Servables(models), limits)) as url:
        page.open(url)
        page.wait("document.querySelectorAll('section').length === 8")
        unlabelled = "[...document.querySelectorAll('input, select, textarea')].filter((e) => !e.labels.length).length"
        assert page.run(unlabelled) == 0

        choose(page, "digits", digit(tmp_path, 3))
        answer = wait(page, "digits", ".bars")
        label = page.run(f"{section('digits')}.querySelector('.verdict').textContent")
        assert label in map(str, range(10))
        assert "%" in answer
        assert page.run(f"{section('digits')}.querySelectorAll('.bars tr').length") == 10
        noise = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
        (tmp_path / "large.png").write_bytes(noise)
        choose(page, "digits", tmp_path / "large.png")
        assert "The file has 0.300 MB; at most 0.149 MB can be sent." in wait(
            page, "digits", ".none"
        )
        (tmp_path / "broken.png").write_bytes(b"no picture")
        choose(page, "digits", tmp_path / "broken.png")
        page.wait(
            f"{section('digits')}.querySelector('[role=alert]').textContent.includes('(status 400)')"
        )
        choose(page, "digits", digit(tmp_path, 3))
        wait(page, "digits", ".bars")

        fill(page, "text", "Prompt", "The ")
        fill(page, "text", "Most tokens", "60")
        fill(page, "text", "Seed", "5")
        first = submit(page, "text", ".text")
        assert first.startswith("The ") and len(first) > 40
        assert submit(page, "text", ".text") == first
        fill(page, "text", "Temperature", "9")
        assert "Temperature: got “9”; accepted: a number from 0 to 2." in submit(
            page, "text", ".none"
        )
        fill(page, "text", "Temperature", "0.5")
        fill(page, "text", "Most tokens", "4096")
        page.run(f"{section('text')}.querySelector('button[type=submit]').click()")
        page.wait(f"{section('text')}.querySelector('.text').textContent.length > 100")
        page.run(f"{section('text')}.querySelector('button.second').click()")
        assert len(wait(page, "text", ".text")) < 3000

        answer = submit(page, "sunspots", "svg .band")
        assert "80 % interval" in answer
        assert page.run(f"{section('sunspots')}.querySelector('svg').getAttribute('aria-label')")
        fill(page, "sunspots", "History", "1, 2, 3")
        assert "Got 3 rows; at least" in submit(page, "sunspots", ".none")
        series = "date;sunspots\n" + "\n".join(
            f"{1700 + i};{50 + 40 * np.sin(i / 2):.1f}" for i in range(80)
        )
        fill(page, "sunspots", "History", series)
        submit(page, "sunspots", "svg .band")

        answer = submit(page, "tumours", ".bars")
        assert "Normal" in answer or "Anomaly" in answer
        names = page.run(
            f"[...{section('tumours')}.querySelectorAll('.grid label')].map((e) => e.textContent)"
        )
        assert len(names) == 30
        fill(page, "tumours", "Paste a row", f"{names[1]},{names[0]}\n999,888")
        boxes = page.run(
            f"[...{section('tumours')}.querySelectorAll('.grid input')].map((e) => e.value)"
        )
        assert boxes[:2] == ["888", "999"]
        fill(page, "tumours", names[2], "")  # missing
        assert "Anomaly" in submit(page, "tumours", ".bars")

        assert "p-value" in submit(page, "sensors", "svg .spike")
        choose(page, "odd_digits", digit(tmp_path, 8, 64))
        assert "p-value" in wait(page, "odd_digits", "canvas")

        fill(page, "numbers", "Label", "7")
        submit(page, "numbers", "img")
        drawn = (
            f"[...{section('numbers')}.querySelectorAll('.answer img')].map((e) => e.naturalWidth)"
        )
        assert page.run(drawn) == [8] * 4
        choose(page, "other_numbers", digit(tmp_path, 3))
        wait(page, "other_numbers", "img")

        for width, dark in itertools.product((1000, 320), (False, True)):
            page.look(width, dark)
            assert page.run(OVERFLOW) <= 0, width
            assert page.run(WIDEST_CHART) <= width  # drawn anew: its words keep their size
            page.screenshot(tmp_path / f"models-{width}{'-dark' if dark else ''}.png")
            for first_, second, ratio in page.run(CONTRASTS):
                assert ratio >= (3 if first_ == "--field" else 4.5), (first_, second, dark)
    refusals = [each for each in page.complaints if "status of 400" not in each]
    assert refusals == []


def test_labels_are_text_and_any_model_can_be_asked(
    pictures: Path, tools: Path, page: Page, tmp_path: Path
) -> None:
    pic = load_model("pic", pictures)
    pic = dataclasses.replace(pic, manifest={**(pic.manifest or {}), "labels": [SCRIPT, "light"]})
    with listening(Service(Servables([pic, load_model("t", tools)])), "secret") as url:
        page.open(url)
        page.wait("document.querySelector('input[type=password]')")
        press = "document.querySelector('button[type=submit]').click()"
        page.run(f"document.querySelector('input[type=password]').value = 'wrong'; {press}")
        page.wait("document.querySelector('[role=alert]').textContent.includes('does not take')")
        page.screenshot(tmp_path / "key.png")
        page.run("document.querySelector('input[type=password]').select()")
        page.type("secret")  # by the keyboard alone
        page.press("Enter", 13)
        page.wait("document.querySelectorAll('section h2').length === 2")
        choose(page, "pic", digit(tmp_path, 1))
        assert SCRIPT in wait(page, "pic", ".bars")
        assert page.run("document.querySelectorAll('main script').length") == 0
        assert '"total": 0' in submit(page, "t", "pre")
        fill(page, "t", "Request", '{"instances": [{"left": [1, NaN], "right": 2}]}')
        assert "null" in submit(page, "t", "pre")
        fill(page, "t", "Request", '{"instances": [')
        assert "The request is not JSON" in submit(page, "t", ".none")
        page.screenshot(tmp_path / "foreign.png")

        page.open(f"{url}docs")  # the key is the tab's
        page.wait("document.querySelectorAll('details').length > 20")
        page.press("Tab", 9)
        assert page.run("document.activeElement.className") == "skip"
        page.press("Enter", 13)
        page.press("Tab", 9)
        assert page.run("document.activeElement.getAttribute('href')") == "#tag-models"
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.run("for (const each of document.querySelectorAll('details')) each.open = true")
        text = page.run("document.body.innerText")
        assert 'curl -H "Authorization: Bearer $KEY" -d \'{"instances":[' in text
        assert f"curl {url}healthz" in text
        page.look(320)
        assert page.run(OVERFLOW) <= 0
        page.screenshot(tmp_path / "docs.png")
    refusals = [each for each in page.complaints if "status of 401" not in each]
    assert refusals == []
