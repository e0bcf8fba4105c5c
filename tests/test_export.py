"""The gate: an export that answers otherwise does not exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, pictures

from dlkit import export, models
from dlkit.data import Data, Spec, Split
from dlkit.data.pixels import encode_png
from dlkit.data.policy import policy
from dlkit.data.preprocess import standardise
from dlkit.errors import ExportError
from dlkit.export.images import MIRRORED, ImageClassifier, held_out, views_of


class Doubled(tf.Module):
    """Twice the input, as text and as a number."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": 2.0 * x, "text": tf.strings.as_string(tf.cast(x, tf.int32))}

    def signatures(self) -> dict[str, Any]:
        double: Any = self.double
        return {"serving_default": double.get_concrete_function()}


def save(directory: Path, y: list[float], text: list[str]) -> dict[str, Any]:
    return export.save(
        Doubled(),
        directory,
        task="image-classification",
        requests={"serving_default": {"x": np.array([1.0, 2.0], np.float32)}},
        expected={"serving_default": {"y": np.array(y, np.float32), "text": np.array(text)}},
        about={"model": "doubled"},
    )


def test_what_agrees_is_exported_with_a_manifest_and_warm_up(tmp_path: Path) -> None:
    manifest = save(tmp_path / "e", [2.0, 4.0], ["1", "2"])
    assert manifest["endpoints"]["serving_default"] == {
        "inputs": {"x": {"dtype": "float32", "shape": [-1]}},
        "outputs": {
            "text": {"dtype": "string", "shape": [-1]},
            "y": {"dtype": "float32", "shape": [-1]},
        },
    }
    assert export.read_manifest(tmp_path / "e" / "1") == manifest
    records = list(
        tf.data.TFRecordDataset(str(tmp_path / "e/1/assets.extra/tf_serving_warmup_requests"))
    )
    assert len(records) == 1
    listed = {
        p.relative_to(tmp_path / "e/1").as_posix()
        for p in (tmp_path / "e/1").rglob("*")
        if p.is_file()
    }
    assert listed - set(manifest["files"]) == {"assets.extra/dlkit.json"}


@pytest.mark.parametrize(
    ("y", "text", "words"),
    [
        ([2.0, 4.001], ["1", "2"], "y differs from the trained model's by 0.00025"),
        ([2.0, float("nan")], ["1", "2"], "y differs"),
        ([2.0, 4.0], ["1", "3"], "text differs in 1 of 2 rows"),
        ([2.0], ["1", "2"], "has shape"),
    ],
)
def test_what_disagrees_leaves_nothing(
    tmp_path: Path, y: list[float], text: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "serving_default/y": np.array([2.0, 4.0], np.float32),
        "serving_default/text": np.array(["1", "2"]),
    }

    def reloaded(command: list[str], **options: Any) -> Any:
        np.savez(command[-1], **answers)
        return type("Done", (), {"returncode": 0, "stderr": ""})

    # The fresh process takes ten seconds and is tried above; here its answers are known.
    monkeypatch.setattr(export.subprocess, "run", reloaded)
    with pytest.raises(ExportError, match=re.escape(words)):
        save(tmp_path / "e", y, text)
    assert not list(tmp_path.iterdir())


def test_an_export_that_does_not_load_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reload.py").write_text("raise SystemExit('no such op')")
    monkeypatch.setattr(export, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ExportError, match="does not load in a fresh process: no such op"):
        save(tmp_path / "e", [2.0, 4.0], ["1", "2"])
    assert not (tmp_path / "e").exists()


def test_an_export_averages_over_views_where_it_was_trained_to() -> None:
    x, y = pictures(12, side=12)
    split = Split(x, y.astype(np.int32), tuple(map(str, range(12))), lambda i: encode_png(x[i]))
    spec = Spec((12, 12, 1), 3, LABELS)
    data = Data("made", split, split, split, spec, standardise(x), kind="photo")
    model = models.build("image-classification", "lenet", spec)
    ready = np.pad(data.preprocess(x), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    in_place = [ready[:, 1:13, 1:13], ready[:, 1:13, 1:13][:, :, ::-1]]
    moved = [ready[:, a : a + 12, a : a + 12][:, :, ::way] for a in (0, 2) for way in (1, -1)]
    logits = [np.array(model(view)) for view in (*in_place, *moved)]
    mean = sum(w * each for w, each in zip([0.25] * 2 + [0.125] * 4, logits, strict=True))
    want = np.exp(mean) / np.exp(mean).sum(1, keepdims=True)
    got = ImageClassifier(model, data, views=MIRRORED).from_pixels(pixels=tf.constant(x))[
        "probabilities"
    ]
    np.testing.assert_allclose(got, want, atol=1e-5)
    plain = ImageClassifier(model, data).from_pixels(pixels=tf.constant(x))["probabilities"]
    assert not np.allclose(got, plain, atol=1e-4)
    _, expected = held_out(model, data, 12, views=MIRRORED)
    np.testing.assert_allclose(expected["from_pixels"]["probabilities"], want, atol=1e-5)


@pytest.mark.parametrize(
    ("augment", "mirrored"),
    [("auto", True), ("flip", True), ("none", False), ("translate,rotate", False)],
)
def test_views_are_mirrored_where_training_mirrored(augment: str, mirrored: bool) -> None:
    assert any(view[2] for view in views_of(policy(augment, "photo"))) is mirrored
    assert not any(view[2] for view in views_of(policy("auto", "characters")))
    assert sum(view[3] for view in views_of(policy(augment, "photo"))) == 1
