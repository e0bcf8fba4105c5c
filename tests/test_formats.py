"""Exports in other formats: converted, compared, measured, opened without TensorFlow, refused."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, Done, exports_unchecked, pictures

from dlkit.errors import OptionError, RunError, ServeError
from dlkit.export import formats, read_manifest
from dlkit.serving.engines import litert_signatures, onnx_signatures
from pipelines.cli import main

Run = Callable[..., Done]
TASK = "image-classification"
ENGINES = {"onnx": onnx_signatures, "litert": litert_signatures}

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None, reason="the extra `onnx` is not installed"
)
needs_litert = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="the extra `litert` is not installed"
)
pytestmark = [needs_onnx, needs_litert]


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time each format five times alone."""
    monkeypatch.setattr(formats, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def converted(
    trained: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """An export of the finished run in every format, and what the command printed as JSON."""
    folder, out, before = tmp_path_factory.mktemp("formats"), io.StringIO(), Path.cwd()
    os.chdir(trained[0])
    try:
        with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
            patch.setattr(formats, "SECONDS", 0.0)
            arguments = ["--format", "onnx", "--format", "litert", "--quantize", "int8", "--json"]
            code = main([TASK, "export", "latest", "--out", str(folder / "model"), *arguments])
    finally:
        os.chdir(before)
    assert code == 0
    return folder / "model" / "1", json.loads(out.getvalue())


def test_each_format_is_measured_and_entered_in_the_manifest(
    converted: tuple[Path, dict[str, Any]], trained: tuple[Path, dict[str, Any]]
) -> None:
    folder, printed = converted
    rows = {row["format"]: row for row in printed["formats"]}
    assert list(rows) == ["saved-model", "onnx", "onnx-int8", "litert", "litert-int8"]
    accuracy = trained[1]["metrics"]["accuracy"]
    for name in ("saved-model", "onnx", "litert"):
        assert rows[name]["metrics"]["accuracy"] == pytest.approx(accuracy)
    manifest = read_manifest(folder)
    assert set(manifest["formats"]) == set(rows) - {"saved-model"}
    for name, entry in manifest["formats"].items():
        content = (folder / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert manifest["files"][entry["file"]] == entry["sha256"]
        assert entry["endpoint"] == "from_pixels"
        assert entry["labels"] == sorted(LABELS)
        assert entry["inputs"]["pixels"] == {"dtype": "uint8", "shape": [-1, 12, 12, 1]}
        assert entry["metrics"] == rows[name]["metrics"]
        assert rows[name]["bytes"] == len(content)
        assert all(took > 0 for took in rows[name]["latency_ms"].values())
        if name.endswith("int8"):
            assert entry["metrics"]["accuracy"] > accuracy - 0.1
            assert rows[name]["bytes"] < 0.4 * rows[name.removesuffix("-int8")]["bytes"]
        else:
            assert set(entry["parity"]) == {"1", "3", "17"}
            assert max(entry["parity"].values()) <= entry["tolerance"] == 1e-5


@pytest.mark.parametrize("engine", list(ENGINES))
def test_engines_answer_as_the_saved_model_does(
    converted: tuple[Path, dict[str, Any]], engine: str
) -> None:
    folder, _ = converted
    runner = ENGINES[engine](folder, 2)["from_pixels"]
    assert runner.inputs["pixels"] == ("uint8", (None, 12, 12, 1))
    assert runner.outputs["label"] == ("string", (None,))
    assert runner.outputs["probabilities"] == ("float", (None, 3))
    signature = tf.saved_model.load(str(folder)).signatures["from_pixels"]
    x, _ = pictures(40, seed=7)

    def compare(rows: np.ndarray) -> None:
        got = runner.run({"pixels": rows})
        want = {name: value.numpy() for name, value in signature(pixels=tf.constant(rows)).items()}
        assert list(got) == sorted(want)
        assert got["label"].dtype == object
        np.testing.assert_array_equal(got["label"], want["label"])
        np.testing.assert_allclose(got["probabilities"], want["probabilities"], atol=1e-5)
        np.testing.assert_allclose(got["probability"], want["probability"], atol=1e-5)
        assert got["probabilities"].dtype == want["probabilities"].dtype
        assert got["probabilities"].shape == want["probabilities"].shape

    for size in (1, 3, 17, 0):
        compare(x[:size])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: compare(x[i : i + 1 + i % 5]), range(32)))


@pytest.mark.parametrize("engine", list(ENGINES))
def test_engines_answer_in_8_bits_much_the_same(
    converted: tuple[Path, dict[str, Any]], engine: str
) -> None:
    folder, _ = converted
    x, _ = pictures(60, seed=8)
    whole = ENGINES[engine](folder, 1)["from_pixels"].run({"pixels": x})
    eighth = ENGINES[engine](folder, 1, int8=True)["from_pixels"].run({"pixels": x})
    assert (whole["label"] == eighth["label"]).mean() > 0.9
    off = np.abs(whole["probabilities"] - eighth["probabilities"])
    assert 1e-5 < off.max() < 0.3  # in 8 bits indeed


def test_engines_start_without_tensorflow(converted: tuple[Path, dict[str, Any]]) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from dlkit.serving.engines import litert_signatures, onnx_signatures\n"
        "for opened in (onnx_signatures, litert_signatures):\n"
        "    run = opened(Path(sys.argv[1]), 1)['from_pixels'].run\n"
        "    print(run({'pixels': np.zeros((2, 12, 12, 1), np.uint8)})['label'].shape)\n"
        "assert not {'tensorflow', 'keras', 'mlflow'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(converted[0])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2,)\n(2,)\n"


def test_engines_refuse_what_is_not_there_or_was_changed(
    converted: tuple[Path, dict[str, Any]], in_trained: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    with pytest.raises(ServeError, match=r"holds no model for onnx; make one with.*--format onnx"):
        onnx_signatures(Path(in_trained["export"], "1"), 1)
    copied = tmp_path / "1"
    shutil.copytree(converted[0], copied)
    content = bytearray((copied / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "model.tflite").write_bytes(content)
    with pytest.raises(RunError, match=r"altered: model\.tflite"):
        litert_signatures(copied, 1)


def test_a_table_is_printed(run_there: Run, tmp_path: Path) -> None:
    done = run_there(TASK, "export", "latest", "--out", tmp_path / "a", "--format", "saved-model")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == [
        "format",
        "size",
        "ms",
        "at",
        "batch",
        "1",
        "ms",
        "at",
        "batch",
        "32",
        "accuracy",
    ]
    assert lines[1].startswith("saved-model")
    assert not (tmp_path / "a" / "1" / "model.onnx").exists()


def test_a_file_that_answers_otherwise_is_refused(
    run_there: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import numpy_helper

    from dlkit.export import onnx as ours

    convert = ours.convert

    def disturbed(function: Any, path: Path, labels: Any) -> None:
        convert(function, path, labels)
        model = onnx.load(path)
        kernel = max(model.graph.initializer, key=lambda each: int(np.prod(each.dims)))
        changed = numpy_helper.to_array(kernel) * np.float32(-1.0)
        kernel.CopyFrom(numpy_helper.from_array(changed, kernel.name))
        onnx.save(model, path)

    monkeypatch.setattr(ours, "convert", disturbed)
    done = run_there(TASK, "export", "latest", "--out", tmp_path / "out", "--format", "onnx")
    assert done.code == 1
    assert "differs from the SavedModel's" in done.err
    assert "nothing was exported" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([TASK, "--format", "onx"], "no format 'onx' (did you mean 'onnx'?); accepted: saved-model, onnx, litert"),
        ([TASK, "--quantize", "int8"], "--quantize int8: is for --format onnx and --format litert"),
        ([TASK, "--format", "saved-model", "--quantize", "int8"], "--quantize int8: is for"),
        (["text-generation", "--format", "onnx"], "not for text-generation: a text model's tokens"),
        (["forecasting", "--format", "onnx", "--quantize", "int8"], "its intervals are calibrated"),
        (["anomaly-detection", "--format", "litert", "--quantize", "int8"], "its threshold is"),
    ],
)  # fmt: skip
def test_what_a_task_does_not_have_is_told(
    dlkit: Run, tmp_path: Path, arguments: list[str], told: str
) -> None:
    task, *others = arguments
    done = dlkit(task, "export", "latest", "--out", tmp_path / "out", *others)
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_told(
    dlkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name)
    )
    done = dlkit(TASK, "export", "latest", "--out", tmp_path / "out", "--format", "onnx")
    assert done.code == 2
    assert "--format onnx: tf2onnx is not installed; pip install 'dlkit[onnx]'" in done.err


def test_an_exported_folder_has_no_data_to_check_a_format_by(
    in_trained: dict[str, Any], run_there: Run, tmp_path: Path
) -> None:
    arguments = ["--out", tmp_path / "out", "--format", "onnx"]
    done = run_there(TASK, "export", in_trained["export"], *arguments)
    assert done.code == 2
    assert "is an exported folder; --format needs the run" in done.err


def test_an_output_may_have_the_name_of_an_input(tmp_path: Path) -> None:
    from dlkit.export import onnx
    from dlkit.serving.engines import open_onnx

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, "x")])
    def doubled(x: Any) -> dict[str, Any]:
        return {"x": 2.0 * x}

    onnx.convert(doubled, tmp_path / "model.onnx", ())
    tensors = {"x": {"dtype": "float32", "shape": [-1, 4]}}
    runner = open_onnx(tmp_path / "model.onnx", {"inputs": tensors, "outputs": tensors}, 1)
    answers = runner.run({"x": np.ones((3, 4), np.float32)})
    np.testing.assert_array_equal(answers["x"], np.full((3, 4), 2.0))


def test_operations_without_an_equivalent_are_named(tmp_path: Path) -> None:
    from dlkit.export import litert, onnx

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, "x")])
    def lattice(x: Any) -> dict[str, Any]:
        return {"y": tf.math.betainc(x, x + 1.0, 0.5)}

    with pytest.raises(OptionError, match="ONNX has nothing for this model's Betainc"):
        onnx.convert(lattice, tmp_path / "model.onnx", ())
    module: Any = tf.Module()
    module.function = lattice
    with pytest.raises(OptionError, match="LiteRT has nothing for this model's Betainc"):
        litert.convert(lattice, module, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_scores_of_anomalies_are_the_same_in_other_formats(dlkit: Run, here: Path) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(150) % 10 == 0
    x = generator.normal(size=(150, 3)) + 5.0 * y[:, None]
    np.savez("rows.npz", X=x, y=y.astype(int))
    with exports_unchecked():
        done = dlkit("anomaly-detection", "train", "--data", "./rows.npz", "--epochs", "2")
    assert done.code == 0, done.err
    both = ["--format", "onnx", "--format", "litert", "--json"]
    done = dlkit("anomaly-detection", "export", "latest", "--out", "out", *both)
    assert done.code == 0, done.err
    manifest = read_manifest(Path("out", "1"))
    for name, opened in ENGINES.items():
        entry = manifest["formats"][name]
        assert max(entry["parity"].values()) <= entry["tolerance"]
        assert entry["metrics"] == pytest.approx(manifest["metrics"], abs=1e-4)
        answers = opened(Path("out", "1"), 1)["serving_default"].run({"rows": x.astype(np.float32)})
        assert answers["is_anomaly"].dtype == bool
        assert answers["is_anomaly"][y].mean() > 0.9 > 0.2 > answers["is_anomaly"][~y].mean()
