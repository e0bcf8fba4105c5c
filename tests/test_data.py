"""Image sources, their splits and the deterministic stream."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, pictures
from PIL import Image

from dlkit.data import splits
from dlkit.data.images import load_images
from dlkit.data.pixels import decode_image, encode_png, fit_image
from dlkit.data.stream import permutation, train_stream
from dlkit.errors import DataError


def test_digits_are_split_80_10_10_by_class_and_whole() -> None:
    data = load_images("digits")
    assert data.sizes() == {"train": 1439, "validation": 179, "test": 179}
    assert data.spec.input_shape == (8, 8, 1)
    assert data.spec.labels == tuple("0123456789")
    for split in (data.train, data.validation, data.test):
        share = np.bincount(split.y) / len(split)
        assert share.min() > 0.08
    names = [n for s in (data.train, data.validation, data.test) for n in s.names]
    assert len(set(names)) == 1797


def test_the_split_seed_decides_the_split_and_nothing_else_does() -> None:
    assert load_images("digits").fingerprint() == load_images("digits", split_seed=0).fingerprint()
    assert load_images("digits").fingerprint() != load_images("digits", split_seed=1).fingerprint()


def test_small_classes_stay_in_train() -> None:
    y = np.array([0] * 30 + [1] * 3 + [2] * 2 + [3])
    train, validation, test = splits.cut(y, 0, 2)
    assert sorted(np.concatenate([train, validation, test]).tolist()) == list(range(36))
    assert set(y[train]) == {0, 1, 2, 3}
    assert set(y[test]) == {0, 1}


def test_a_folder_of_mixed_files(photos: Path) -> None:
    data = load_images(str(photos))
    assert data.spec.input_shape == (12, 12, 3)
    assert data.spec.labels == tuple(sorted(LABELS))
    assert sum(data.sizes().values()) == 45
    assert "5 of 45 images are resized to 12 x 12" in data.notes
    assert load_images(f"{photos}/", shape=(6, 6, None)).spec.input_shape == (6, 6, 3)
    raw = data.test.encoded(0)
    np.testing.assert_array_equal(decode_image(raw, (12, 12, 3)), data.test.x[0])


def test_given_splits_are_kept(tmp_path: Path) -> None:
    x, y = pictures(60)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        split = "train" if i < 40 else "val" if i < 50 else "test"
        path = tmp_path / split / LABELS[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
    data = load_images(str(tmp_path))
    assert data.sizes() == {"train": 40, "validation": 10, "test": 10}
    assert data.spec.input_shape == (12, 12, 1)
    assert {Path(n).parts[-3] for n in data.test.names} == {"test"}


def test_npz_with_given_splits_floats_and_names(tmp_path: Path) -> None:
    x, y = pictures(60)
    path = tmp_path / "a.npz"
    np.savez(
        path,
        x_train=x[:40] / 255,
        y_train=y[:40],
        x_test=x[40:] / 255,
        y_test=y[40:],
        labels=LABELS,
    )
    data = load_images(str(path))
    assert data.spec.labels == LABELS
    assert len(data.test) == 20
    np.testing.assert_array_equal(data.test.x, x[40:])
    assert any("validation is a tenth" in note for note in data.notes)


def test_duplicates_across_splits_are_said(tmp_path: Path) -> None:
    x, y = pictures(60)
    x[50:53] = x[:3]
    y[50:53] = y[:3]
    path = tmp_path / "a.npz"
    np.savez(
        path,
        x_train=x[:40],
        y_train=y[:40],
        x_val=x[40:48],
        y_val=y[40:48],
        x_test=x[48:],
        y_test=y[48:],
    )
    assert "3 of 12 test images also stand in train" in load_images(str(path)).notes


def test_unreadable_files_are_left_out_by_name_or_refused(photos: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "dot" / "text.png").write_text("this is no image")
    whole = next((folder / "dot").glob("*.jpg")).read_bytes()
    (folder / "dot" / "short.jpg").write_bytes(whole[: len(whole) // 2])
    frames = [Image.fromarray(frame) for frame in pictures(2, channels=3)[0]]
    frames[0].save(folder / "dot" / "moving.webp", save_all=True, append_images=frames[1:])
    clear = frames[0].convert("RGBA")
    clear.putalpha(99)
    clear.save(folder / "dot" / "clear.webp")
    clear.save(folder / "dot" / "lossless.webp", lossless=True)
    notes = [note for note in load_images(str(folder)).notes if "unreadable" in note]
    assert len(notes) == 1
    assert notes[0].startswith("5 unreadable images left out: ")
    with pytest.raises(DataError, match="--strict: 5 unreadable images: ") as caught:
        load_images(str(folder), strict=True)
    for said in (notes[0], str(caught.value)):
        for name in ("text.png", "short.jpg", "moving.webp (an animated WebP"):
            assert name in said
        for name in ("clear.webp", "lossless.webp"):
            assert f"{name} (a WebP with transparency" in said


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_of_file_decodes(mode: str) -> None:
    grey = pictures(1)[0][0, ..., 0]
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG" if mode == "CMYK" else "PNG")
    for channels in (1, 3):
        pixels = decode_image(tf.constant(file.getvalue()), (12, 12, channels)).numpy()
        assert pixels.shape == (12, 12, channels)
        if mode in ("L", "LA", "RGB", "RGBA", "I;16"):
            np.testing.assert_array_equal(pixels[..., 0], grey)


def test_grey_of_grey_is_itself_and_resizing_averages() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(fit_image(tf.repeat(grey, 3, -1), (16, 16, 1)), grey)
    checks = np.indices((32, 32)).sum(0)[..., None] % 2 * 255
    shrunk = fit_image(tf.constant(checks, tf.uint8), (8, 8, 1)).numpy()
    assert abs(int(shrunk[2:6, 2:6].mean()) - 127) <= 3


def stream(epoch: int = 0, step: int = 0, seed: int = 7) -> Any:
    rows = np.arange(25)
    dataset = train_stream(
        (rows,), lambda draw, rows, x: (draw, x), batch_size=4, seed=seed, epoch=epoch, step=step
    )
    return dataset.as_numpy_iterator()


def test_the_stream_goes_on_from_any_position() -> None:
    whole = stream()
    batches = [next(whole) for _ in range(14)]
    for at in (1, 5, 6, 9):
        later = stream(*divmod(at, 6))
        for expected in batches[at:]:
            draw, rows = next(later)
            np.testing.assert_array_equal(draw, expected[0])
            np.testing.assert_array_equal(rows, expected[1])


def test_an_epoch_repeats_no_row_and_draws_no_seed_twice() -> None:
    whole = stream()
    batches = [next(whole) for _ in range(12)]
    for epoch in (batches[:6], batches[6:]):
        rows = np.concatenate([rows for _, rows in epoch])
        assert len(set(rows.tolist())) == 24
    assert len({tuple(draw) for draw, _ in batches}) == 12
    assert next(stream(seed=8))[1].tolist() != batches[0][1].tolist()


def test_orders_of_neighbouring_epochs_do_not_correlate() -> None:
    orders = [permutation(2000, 3, epoch) for epoch in range(6)]
    for one, two in itertools.pairwise(orders):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.1


@pytest.mark.slow
def test_tfds_sets(real_data: Path) -> None:
    data = load_images("tfds:fashion_mnist", data_dir=str(real_data / "tfds"), download=False)
    assert data.sizes() == {"train": 54_000, "validation": 6_000, "test": 10_000}
    assert data.spec.labels[0] == "T-shirt/top"
    assert data.kind == "photo"
    digits = load_images("tfds:mnist", data_dir=str(real_data / "tfds"), download=False)
    assert digits.kind == "characters"
