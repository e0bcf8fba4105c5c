"""The server as a process: what it refuses to start with, real HTTP, and how it stops."""

from __future__ import annotations

import base64
import dataclasses
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from processes import write_version

from dlkit.errors import ServeError
from dlkit.serving.announce import announcement
from dlkit.serving.model import load_model
from pipelines.serve import serve

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from pipelines.serve import serve; serve()"]


def test_what_cannot_be_served(
    pictures: Path, tmp_path: Path, write_warm_up: Callable[[Path, list[bytes]], None]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(pictures, broken)
    write_warm_up(broken / "1", [b"no picture"])
    (broken / "1/assets.extra/dlkit.json").unlink()
    with pytest.raises(ServeError, match="warm-up request 1 of x fails"):
        load_model("x", broken)
    (broken / "1/saved_model.pb").write_bytes(b"cut")
    with pytest.raises(ServeError, match="cannot be loaded as a SavedModel"):
        load_model("x", broken)
    (broken / "2").mkdir()
    (tmp_path / "plain").mkdir()
    for runs, words in {
        (f"x={pictures}", f"x={pictures}"): "two models are named 'x'",
        (f"a b={pictures}",): "'a b' cannot be a model's name",
        (str(broken),): "2 is not a SavedModel",
        (str(tmp_path / "plain"),): "holds no version such as 1/",
        (str(pictures / "1"),): "give the directory above it",
        (str(tmp_path / "no"),): str(tmp_path / "no"),
    }.items():
        error = CliRunner().invoke(serve, [*runs, "--port", "0"]).exception
        assert words in str(error) and "\n" not in str(error)


def test_what_is_announced(pictures: Path, tools: Path) -> None:
    picture, tool = load_model("pic", pictures), load_model("t", tools)
    url = "http://[::1]:80/v1/models/"
    body = '{"instances": [{"left": [0.0, 0.0], "right": 0}]}'
    lines = [f"t: {url}t:predict", f"  curl -d '{body}' {url}t:predict"]
    assert announcement(tool, "::1", 80).splitlines() == lines
    assert "[::1]" in announcement(tool, "::", 80) and "127.0.0.1" in announcement(
        tool, "0.0.0.0", 1
    )
    cold = announcement(dataclasses.replace(picture, example=None), "::1", 80).splitlines()[1]
    written = cold.replace("base64 < image.png", "printf abc | base64").split(" | curl")[0]
    sent = subprocess.run(["sh", "-c", written], capture_output=True, check=True).stdout
    assert json.loads(sent) == {"instances": [{"b64": "YWJj"}]}


def test_port_in_use_is_told_before_tensorflow_is_loaded(pictures: Path) -> None:
    script = "import sys; from pipelines.serve import serve; from dlkit.errors import ServeError\n"
    script += "try: serve(standalone_mode=False)\n"
    script += "except ServeError as error: print(error, 'tensorflow' in sys.modules)"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", script, str(pictures), "--port", str(port)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    expected = f"port {port} on 127.0.0.1 is in use; choose another with --port False\n"
    assert (result.stdout, result.stderr) == (expected, "")


def test_an_export_in_onnx_is_served_without_tensorflow(tmp_path: Path) -> None:
    write_version(tmp_path, 3)
    script = "import sys; from dlkit.serving.server import load; from pathlib import Path\n"
    script += "from dlkit.serving.app import create_app; from dlkit.serving.watch import Plan\n"
    script += "from dlkit.serving.settings import Settings\n"
    script += "plan = Plan({'n': {3: Path(sys.argv[1])}})\n"
    script += "service, _ = load(Settings(runtime='onnx'), plan); create_app(service)\n"
    script += "model = service.servables.find('n')\n"
    script += "print(sorted(model.metadata['signature_def']['serving_default']['outputs']))\n"
    script += "print({'tensorflow', 'keras', 'mlflow', 'pandas'} & sys.modules.keys())"
    command = [sys.executable, "-c", script, str(tmp_path / "3")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["['again', 'version']", "set()"], done.stderr


@pytest.mark.parametrize(
    ("option", "words"),
    {
        ("--workers", "0"): "got '0'; accepted: a whole number at least 1, at most 256",
        ("--runtime", "onx"): "got 'onx' (did you mean 'onnx'?)",
        ("--batch-timeout-ms", "-1"): "got '-1'; accepted: a number at least 0",
        ("--request-timeout", "never"): "got 'never'; accepted: a time above zero",
        ("--api-key-file", "/no/keys"): "--api-key-file /no/keys cannot be read",
    }.items(),
)
def test_options_are_checked(pictures: Path, option: tuple[str, str], words: str) -> None:
    done = CliRunner().invoke(serve, [str(pictures), "--port", "0", *option])
    assert done.exit_code != 0
    assert words in f"{done.output} {done.exception}"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes, timers = [], []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [*COMMAND, *arguments, "--port", "0"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, **pipes))
        timers.append(threading.Timer(60, processes[-1].kill))
        timers[-1].start()  # a server that hangs fails the test
        return processes[-1]

    yield run
    for process, timer in zip(processes, timers, strict=True):
        timer.cancel()
        process.kill()
        process.communicate()


def test_a_real_server_answers_and_drains(
    start: Callable[..., subprocess.Popen[str]], pictures: Path, tools: Path
) -> None:
    process = start(str(pictures), f"t={tools}")
    assert process.stdout and process.stderr
    first, paste, second, _ = (process.stdout.readline() for _ in range(4))
    assert first.startswith("image_classification (image-classification, lenet, abc): http://")
    url = second.split(": ")[1].removesuffix("/t:predict\n")
    curl, flag, body, target = shlex.split(paste)
    assert (curl, flag) == ("curl", "-d")
    with httpx.Client(timeout=30) as client:
        answer = client.post(target, content=body)
        assert answer.json()["predictions"][0]["label"] == "light"
        marked = {"instances": ["SECRET", "SECRET"]}
        assert client.post(target, json=marked).status_code == 400
        health = url.replace("/v1/models", "/healthz")
        assert client.get(health).status_code == 200

        slow: list[httpx.Response] = []
        body = {"signature_name": "wait", "instances": [3.0]}
        wait = threading.Thread(
            target=lambda: slow.append(httpx.post(f"{url}/t:predict", json=body, timeout=30))
        )
        wait.start()
        time.sleep(0.5)
        began = time.monotonic()
        assert client.get(f"{url}/t").status_code == 200
        assert time.monotonic() - began < 1.0  # the event loop is free while a model runs
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert client.get(health).status_code == 503
        wait.join()
    assert slow[0].json() == {"predictions": [True]}
    output, log = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "")
    assert "SECRET" not in log and base64.b64encode(b"SECRET").decode() not in log
    assert "Traceback" not in log and "replayed 1 warm-up" in log


@pytest.mark.slow
def test_sigterm_while_loading_ends_quietly(
    start: Callable[..., subprocess.Popen[str]], tools: Path
) -> None:
    process = start(str(tools))
    assert process.stderr
    assert "loading" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
