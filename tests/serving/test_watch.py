"""Versions that come and go while a server runs, found on disk or through MLflow's registry."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from processes import Asking, Started, started, write_version

from dlkit import tracking
from dlkit.errors import StoreError
from dlkit.serving.watch import Finder, Refusal, Source
from pipelines.serve import serve

MANIFEST = "assets.extra/dlkit.json"
FAST = ("--runtime", "onnx", "--port", "0", "--poll", "0.1")


def states(url: str) -> dict[int, tuple[str, str]]:
    """Return the state and the error of each version that the server tells of."""
    told = httpx.get(url).json()["model_version_status"]
    return {int(s["version"]): (s["state"], s["status"]["error_message"]) for s in told}


def until_served(server: Started, url: str, *versions: int) -> None:
    """Wait until these versions answer, and no others."""
    server.until(
        lambda: {v for v, s in states(url).items() if s[0] == "AVAILABLE"} == set(versions)
    )


def test_versions_are_swapped_under_load(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    with started(f"n={tmp_path}", *FAST, "--label", "n:first=1") as server:
        url = server.url()
        with Asking(url) as asking:
            server.until(lambda: len(asking.answers) > 10)
            for version in range(2, 7):
                write_version(tmp_path, version)
                until_served(server, url, 1, version)  # what has a label stays
                if version > 2:
                    assert states(url)[version - 1] == ("END", "")
        found = asking.versions()
        assert asking.lost == [] and set(found) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
        first = httpx.post(f"{url}/labels/first:predict", json={"instances": [0.0]})
        assert first.json()["predictions"][0]["version"] == 1.0

        # One that is not what its manifest says is refused; the old one goes on.
        broken = write_version(tmp_path, 7)
        (broken / "assets.extra/model.onnx").write_bytes(b"cut")
        server.until(lambda: 7 in states(url))
        server.until(lambda: states(url)[7][0] == "END")
        assert "model.onnx is not what its manifest says" in states(url)[7][1]
        assert states(url)[6] == ("AVAILABLE", "")
        assert server.log.count("version 7 is not served") == 1
        shutil.rmtree(broken)
        write_version(tmp_path, 7)  # mended
        until_served(server, url, 1, 7)
        shutil.rmtree(tmp_path / "7")
        shutil.rmtree(tmp_path / "1")
        until_served(server, url, 6)
        gone = httpx.post(f"{url}/labels/first:predict", json={"instances": [0.0]})
        assert gone.status_code == 400


def test_all_workers_swap(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    with started(f"n={tmp_path}", *FAST, "--workers", "2") as server:
        url = server.url()
        with Asking(url) as asking:
            write_version(tmp_path, 2)
            server.until(lambda: server.log.count("version 1 is retired") == 2)
            broken = write_version(tmp_path, 3)
            (broken / MANIFEST).write_text("{}")
            server.until(lambda: server.log.count("version 3 is not served") == 2)
            before = len(asking.answers)
            server.until(lambda: len(asking.answers) > before + 20)
        assert asking.lost == [] and set(asking.versions()[before:]) == {2.0}


def test_a_copy_that_is_under_way_is_waited_for(tmp_path: Path) -> None:
    one = write_version(tmp_path, 1)
    finder = Finder({"n": Source("n", tmp_path)})
    assert finder.look().versions == {"n": {1: one}}
    two, made = tmp_path / "2", write_version(tmp_path / "elsewhere", 2)
    shutil.copytree(made, two)
    (two / "saved_model.pb").unlink()
    assert finder.look().versions == {"n": {1: one}}  # its manifest says that there is more
    shutil.copy(made / "saved_model.pb", two)
    assert finder.look().versions == {"n": {2: two}}

    three = tmp_path / "3"  # a foreign one, which has no manifest
    three.mkdir()
    for name in ("saved_model.pb", "more"):
        assert finder.look().versions == {"n": {2: two}}
        (three / name).write_bytes(b"1")
    assert finder.look().versions == {"n": {2: two}}
    assert finder.look().versions == {"n": {3: three}}

    finder.refuse(Refusal("n", 3, three))
    assert finder.look().versions == finder.look().versions == {"n": {2: two}}
    (three / "more").write_bytes(b"mended")
    assert finder.look().versions == {"n": {2: two}}
    assert finder.look().versions == {"n": {3: three}}
    shutil.rmtree(three)
    assert Finder(finder.sources, versions=2).look().versions == {"n": {1: one, 2: two}}


def test_a_directory_that_cannot_be_read_keeps_what_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = write_version(tmp_path / "n", 1)
    finder = Finder({"n": Source("n", tmp_path / "n")})
    plan = finder.look()
    os.rename(tmp_path / "n", tmp_path / "away")
    assert finder.look() == finder.look() == plan
    assert len([r for r in caplog.records if "cannot look for versions" in r.message]) == 1
    os.rename(tmp_path / "away", tmp_path / "n")
    shutil.rmtree(one)
    assert finder.look().versions == {"n": {}}  # as TensorFlow Serving has it


def test_an_alias_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports = {name: write_version(tmp_path / name, 1) for name in ("old", "new", "bad")}
    registry: dict[str, Any] = {"runs": {4: "old", 5: "new", 6: "bad"}, "aliases": {"prod": 4}}

    def run(ref: str) -> Any:
        if registry["aliases"] is None:
            raise StoreError("the tracking store is away")
        return SimpleNamespace(
            info=SimpleNamespace(run_id=registry["runs"][registry["aliases"]["prod"]])
        )

    monkeypatch.setattr(tracking, "find_run", run)
    monkeypatch.setattr(
        tracking, "registered", lambda ref: (registry["aliases"]["prod"], registry["aliases"])
    )
    monkeypatch.setattr(
        tracking, "export_directory", lambda ref: (tmp_path / run(ref).info.run_id, "n")
    )
    finder = Finder({"n": Source("models:/n@prod", tmp_path / "old", followed=True)})
    assert finder.look().versions == {"n": {4: exports["old"]}}
    assert finder.look().labels == {"n": {"prod": 4}}
    registry["aliases"] = {"prod": 5, "before": 4}
    plan = finder.look()
    assert plan.versions == {"n": {5: exports["new"]}}
    assert plan.labels == {"n": {"prod": 5, "before": 4}}
    registry["aliases"] = {"prod": 6}
    assert finder.look().versions == {"n": {6: exports["bad"]}}
    finder.refuse(Refusal("n", 6, exports["bad"]))
    assert finder.look().versions == finder.look().versions == {"n": {5: exports["new"]}}
    registry["aliases"] = None
    assert finder.look().versions == {"n": {5: exports["new"]}}
    registry["aliases"] = {"prod": 4}
    assert finder.look().versions == {"n": {4: exports["old"]}}


def test_latest_counts_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports = {name: write_version(tmp_path / name, 1) for name in ("a", "b")}
    newest = ["a"]
    monkeypatch.setattr(
        tracking, "find_run", lambda ref: SimpleNamespace(info=SimpleNamespace(run_id=newest[-1]))
    )
    monkeypatch.setattr(tracking, "export_directory", lambda ref: (tmp_path / newest[-1], "n"))
    finder = Finder({"n": Source("latest", tmp_path / "a", followed=True)})
    assert finder.look() == finder.look()
    newest.append("b")
    assert finder.look().versions == finder.look().versions == {"n": {2: exports["b"]}}


def test_what_is_not_there_to_label(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    for labels, words in {
        ("n:a=2",): "n has no version 2 for 'a'; there: 1",
        ("m:a=1",): "no model 'm'; served: n",
        ("na=1",): "got 'na=1'; accepted: NAME:LABEL=VERSION",
    }.items():
        options = [part for label in labels for part in ("--label", label)]
        error = CliRunner().invoke(serve, [f"n={tmp_path}", *FAST, *options]).exception
        assert words in str(error) and "\n" not in str(error)
