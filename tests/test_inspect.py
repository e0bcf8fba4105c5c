"""`inspect`: what a source holds, and the copies planted in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import LABELS, Done, pictures
from PIL import Image

from dlkit.data import duplicates

Run = Callable[..., Done]
INSPECT = ("image-classification", "inspect")


def encoded_anew(image: np.ndarray, scale: float = 1.0, quality: int = 60) -> np.ndarray:
    """An image after a JPEG file, and perhaps another size and back."""
    drawn, file = Image.fromarray(image.squeeze()), io.BytesIO()
    if scale != 1.0:
        side = round(image.shape[0] * scale)
        drawn = drawn.resize((side, side), Image.Resampling.BILINEAR)
        drawn = drawn.resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    drawn.save(file, "JPEG", quality=quality)
    with Image.open(file) as copy:
        return np.array(copy).reshape(image.shape)


def planted(
    folder: Path, x: np.ndarray, y: np.ndarray, names: tuple[str, ...], train: int
) -> set[tuple[str, str]]:
    """Write class folders, and into train five equal and five re-encoded test images.

    Returns:
        The names of each planted file and of the test image it copies.
    """
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        path = folder / ("train" if i < train else "test") / names[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)
    chosen = np.random.default_rng(0).choice(np.arange(train, len(x)), 10, replace=False)
    pairs = set()
    for place, i in enumerate(chosen.tolist()):
        copy = x[i] if place < 5 else encoded_anew(x[i], (1.0, 1.0, 0.75, 2.0, 2.0)[place - 5])
        path = folder / "train" / names[y[i]] / f"planted-{place}.png"
        Image.fromarray(copy.squeeze()).save(path)
        pairs.add((str(path), str(folder / "test" / names[y[i]] / f"{i}.png")))
    return pairs


def leaks(result: dict) -> set[tuple[str, str]]:
    return {tuple(pair["names"]) for pair in result["leaks"]}


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_planted_copies_are_found_and_named_and_nothing_else(
    dlkit: Run, tmp_path: Path, channels: int
) -> None:
    x, y = pictures(300, side=32, channels=channels, seed=11)
    pairs = planted(tmp_path / "data", x, y, LABELS, 200)
    done = dlkit(*INSPECT, tmp_path / "data", "--json")
    assert (done.code, done.err) == (0, "")
    assert leaks(done.json) == pairs
    assert done.json["exact_duplicates"]["by_split"] == {"train-test": 5}
    assert done.json["near_duplicates"]["by_split"] == {"train-test": 5}
    assert done.json["exact_duplicates"]["different_labels"] == 0
    assert len(done.json["pictures"]) == 2
    for path in done.json["pictures"]:
        with Image.open(path) as drawn:
            assert drawn.width > 200
    rows = list(csv.DictReader(Path(done.json["table"]).read_text().splitlines()))
    assert {(r["name_1"], r["name_2"]) for r in rows} == pairs
    assert {r["leak"] for r in rows} == {"yes"}

    strict = dlkit(*INSPECT, tmp_path / "data", "--strict")
    assert strict.code == 2
    assert "leaks:" in strict.out
    last = strict.err.strip().splitlines()
    assert len(last) == 1
    assert "5 test images equal images of train" in last[0]
    assert "5 test images are copies of images of train" in last[0]


@pytest.mark.slow  # decodes 70,000 images; that look-alikes are no leaks, digits show as well
def test_planted_copies_among_look_alikes(dlkit: Run, real_data: Path, tmp_path: Path) -> None:
    """Fashion-MNIST is full of items that look alike: only what is planted may be called a leak."""
    from dlkit.data.images import load_images

    data = load_images("tfds:fashion_mnist", data_dir=str(real_data / "tfds"), download=False)
    x = np.concatenate([data.train.x[:4000], data.test.x[:1000]])
    y = np.concatenate([data.train.y[:4000], data.test.y[:1000]])
    names = tuple(label.replace("/", "-") for label in data.spec.labels)
    pairs = planted(tmp_path / "data", x, y, names, 4000)
    assert leaks(dlkit(*INSPECT, tmp_path / "data", "--json").json) == pairs


def test_copies_of_copies_and_of_other_classes() -> None:
    x, _ = pictures(40, side=32, seed=2)
    x = np.concatenate(
        [x, x[3:4], encoded_anew(x[3])[None], x[3:4], np.zeros((4, 32, 32, 1), np.uint8)]
    )
    found = duplicates.traits([x])
    assert [(p.first, p.second) for p in duplicates.exact(found)] == [
        (3, 40), (3, 42), (43, 44), (43, 45), (43, 46)
    ]  # fmt: skip
    assert [(p.first, p.second) for p in duplicates.near(found)] == [(3, 41)]


def test_what_is_found_on_disk(dlkit: Run, tmp_path: Path) -> None:
    """Sizes, modes, unreadable files, a rare class, one image under two labels, another only in test."""
    x, _ = pictures(40, side=32, seed=4)
    folder = tmp_path / "album"
    for i, image in enumerate(x):
        drawn = Image.fromarray(image.squeeze())
        path = folder / "train" / ("dog" if i < 30 else "cat") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        (drawn.resize((48, 40)) if i < 3 else drawn.convert("RGB") if i < 5 else drawn).save(path)
    Image.fromarray(x[35].squeeze()).save(folder / "train" / "dog" / "again.png")
    (folder / "train" / "dog" / "text.png").write_text("no image")
    whole = (folder / "train" / "dog" / "9.png").read_bytes()
    (folder / "train" / "dog" / "short.png").write_bytes(whole[: len(whole) // 2])
    (folder / "test" / "bird").mkdir(parents=True)
    Image.fromarray(pictures(1, side=32, seed=9)[0][0].squeeze()).save(folder / "test/bird/0.png")
    result = dlkit(*INSPECT, folder, "--out", tmp_path / "pictures", "--json").json
    assert result["splits"]["train"]["classes"]["cat"] == 9
    assert result["splits"]["train"]["classes"]["dog"] == 28
    assert sum(part["images"] for part in result["splits"].values()) == 42
    assert result["given_splits"] == ["train", "test"]
    assert result["sizes"]["commonest"] == [32, 32]
    assert result["sizes"]["height"] == {"min": 32, "median": 32, "max": 40}
    assert result["sizes"]["width"]["max"] == 48
    assert result["modes"] == {"L": 41, "RGB": 2}
    assert {Path(name).name for name in result["corrupt"]} == {"text.png", "short.png"}
    assert result["exact_duplicates"]["different_labels"] == 1
    assert result["exact_duplicates"]["list"][0]["labels"] == ["cat", "dog"]
    assert result["imbalance"]["ratio"] == pytest.approx(28 / 9, abs=1e-4)
    assert result["not_in_train"] == ["bird"]
    assert "class 'bird' is in test and not in train" in result["fatal"]
    assert any("--class-weight balanced" in said for said in result["warnings"])
    assert (tmp_path / "pictures" / "mean-images.png").is_file()
    human = dlkit(*INSPECT, folder)
    assert human.code == 0
    for words in ("commonest 32 x 32", "text.png", "different labels:", "'dog', 'cat'"):
        assert words in human.out, words
    assert Path("inspect-album/mean-images.png").is_file()
    strict = dlkit(*INSPECT, folder, "--strict")
    assert strict.code == 2
    assert "2 unreadable files" in strict.err


def test_clean_sources_pass(dlkit: Run, npz: Path) -> None:
    for source in ("digits", npz):
        done = dlkit(*INSPECT, source, "--strict", "--json")
        assert (done.code, done.err) == (0, "")
        assert done.json["leaks"] == []
        assert done.json["table"] is None
    assert done.json["imbalance"]["ratio"] == 1.0
    assert done.json["modes"] == {"L": 150}


def test_mistakes(dlkit: Run) -> None:
    Path("file").write_text("")
    for arguments, words in (
        (["digit"], "did you mean 'digits'?"),
        (["digits", "--out", "file"], "--out: file is a file"),
        (["digits", "--image-size", "2"], "--image-size"),
        ([], "SOURCE"),
    ):
        done = dlkit(*INSPECT, *arguments)
        assert (done.code, done.out) == (2, "")
        assert words in done.err
    assert not list(Path().glob("inspect-*"))
