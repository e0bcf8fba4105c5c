"""CSV manifests as a source: what they load, and what is refused in one line."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import Done

from dlkit.data.images import load_images, load_rows
from dlkit.errors import DataError

Run = Callable[..., Done]
TRAIN = ("image-classification", "train", "--model", "mlp", "--data")


def rows_of(photos: Path, split: Callable[[int], str] | None = None) -> list[tuple[str, ...]]:
    """Rows of a manifest beside the class folders of `photos`."""
    files = sorted(photos.rglob("*.*"))
    rows = [(str(f.relative_to(photos)), f.parent.name) for f in files if f.suffix != ".csv"]
    return [(*row, split(i)) for i, row in enumerate(rows)] if split else list(rows)


def write(path: Path, rows: list[tuple[str, ...]], header: str = "path,label,split") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def album(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photos that may be written to."""
    return Path(shutil.copytree(photos, tmp_path / "album"))


def test_a_manifest_is_the_folder_it_lists(album: Path) -> None:
    """The same rows in the same order give the same splits, pixels, labels and fingerprint."""
    listed = load_images(str(write(album / "labels.csv", rows_of(album), "path,label")))
    folder = load_images(str(album))
    assert listed.fingerprint() == folder.fingerprint()
    assert listed.spec == folder.spec
    assert listed.test.names == folder.test.names
    assert listed.test.encoded(0) == Path(folder.test.names[0]).read_bytes()


def test_given_splits_columns_in_any_order_and_what_spreadsheets_write(album: Path) -> None:
    splits = ("train", "val", "train", "test", "train")
    rows = [
        (s, "x, y", f" {label} ", path)
        for path, label, s in rows_of(album, lambda i: splits[i % 5])
    ]
    path = write(album / "labels.csv", rows, "\ufeffsplit,remark,label,path")
    path.write_text(path.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    data = load_images(str(path))
    assert data.sizes() == {"train": 27, "validation": 9, "test": 9}
    assert data.spec.labels == ("cross", "dot", "stripe")
    expected = [r[3] for r in rows if r[0] == "test"]
    assert [str(Path(n).relative_to(album)) for n in data.test.names] == expected
    only_test = [("test", *r[1:]) for r in rows if "dot" in r[2]]
    path = write(album / "new.csv", only_test, "split,remark,label,path")
    split, name, _ = load_rows(str(path), ("cross", "dot", "stripe"), (12, 12, 3))
    assert (len(split), name, set(split.y)) == (15, "test", {1})
    with pytest.raises(DataError, match="has no train split; there are test"):
        load_images(str(path))


def test_unreadable_files_follow_the_rule_of_folders(album: Path) -> None:
    rows = rows_of(album)
    (album / rows[3][0]).write_text("no image")
    path = write(album / "labels.csv", rows, "path,label")
    assert any("1 unreadable image left out" in note for note in load_images(str(path)).notes)
    with pytest.raises(DataError, match="--strict: 1 unreadable image: "):
        load_images(str(path), strict=True)


def test_mistakes_in_a_manifest(dlkit: Run, album: Path) -> None:
    rows = rows_of(album)
    three = rows_of(album, lambda i: ("train", "test")[i % 3 == 0])
    dots = [(p, label, "test" if label == "dot" else "train") for p, label in rows]
    cases = {
        "path,lable": (rows, "no column 'label' (did you mean 'lable'?)"),
        "file,label": (rows, "no column 'path'"),
        "path;label": ([], "no column 'path'"),
        "path,label,spilt": (three, "no column 'split' but 'spilt'"),
        "path,label,path": (three, "column 'path' twice"),
        "": ([], "is empty"),
        "path,label": ([], "has no rows"),
        " path,label": ([*rows[:5], ("a.png", "dot"), ("b.png", "dot")], "2 of its 7 files are not there"),
        "path ,label": ([r for r in rows if r[1] == "dot"], "1 class in train, 'dot'"),
        "path,label ": ([*rows[:2], (rows[2][0],)], "line 4 has 1 cell, the header 2"),
        " path,label ": ([*rows[:2], (rows[2][0], " ")], "line 4 has no label"),
        "path , label": ([*rows[:2], ("", "dot")], "line 4 has no path"),
        "path,label,split": (dots, "class 'dot' is in test and not in train"),
        "path,label, split": (
            [*three[:1], (*three[1][:2], "trian")],
            "line 3 has split 'trian' (did you mean 'train'?)",
        ),
    }  # fmt: skip
    for header, (found, words) in cases.items():
        done = dlkit(*TRAIN, write(album / "labels.csv", found, header))
        last = done.err.strip().splitlines()[-1]
        assert (done.code, done.out) == (2, ""), (header, done)
        assert last.startswith(f"dlkit: error: --data {album}/labels.csv: "), last
        assert words in last, (header, last)
    (album / "labels.csv").write_bytes("path,label\nä.png,dot\n".encode("latin-1"))
    assert "is not UTF-8 (byte 0xe4" in dlkit(*TRAIN, album / "labels.csv").err
    (album / "labels.csv").write_text('path,label\n"open,dot\n')
    assert "is no CSV" in dlkit(*TRAIN, album / "labels.csv").err
    assert dlkit("runs", "list", "--json").out == ""


def test_mistakes_are_told_before_tensorflow_loads(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", [("a.png", "dot")], "path,label")
    probe = (
        "import sys; from pipelines.cli import main; code = main(sys.argv[1:]); "
        "sys.exit('tensorflow' if 'tensorflow' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *TRAIN, "labels.csv"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.endswith("1 of its 1 file is not there: a.png\n")


def test_evaluate_and_predict_take_a_manifest(run_there: Run, tmp_path: Path) -> None:
    from made import LABELS, pictures
    from PIL import Image

    x, y = pictures(12, seed=4)
    (tmp_path / "im").mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image.squeeze()).save(tmp_path / "im" / f"{i:02}.png")
    rows = [(f"im/{i:02}.png", LABELS[label]) for i, label in enumerate(y)]
    path = write(tmp_path / "new.csv", rows[::-1], "path,label")
    scored = run_there("image-classification", "evaluate", "latest", "--data", path, "--json")
    assert scored.code == 0, scored.err
    assert scored.json["split"] == "all"
    done = run_there(
        "image-classification", "predict", "latest", path, "--output", tmp_path / "o.csv"
    )
    table = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [Path(r["file"]).name for r in table] == [f"{i:02}.png" for i in reversed(range(12))]
    right = [r["label"] == LABELS[label] for r, label in zip(table[::-1], y, strict=True)]
    assert np.mean(right) == pytest.approx(scored.json["metrics"]["accuracy"])
    done = run_there("image-classification", "predict", "latest", write(path, [("z.png",)], "path"))
    assert (done.code, done.out) == (2, "")
    assert f"INPUT {path}: 1 of its 1 file is not there" in done.err
