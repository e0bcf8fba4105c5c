"""Starting weights: from ImageNet, from a file, or from another run's checkpoint."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.errors import CheckpointError, OptionError, nearest

IMAGENET, NONE = "imagenet", "none"
ENDINGS = (".keras", ".weights.h5", ".h5", ".npz")
# A member that every zip of a kind has.
MEMBERS = {".keras": "config.json", ".npz": "header.npy"}
HDF5 = b"\x89HDF\r\n\x1a\n"
ACCEPTED = "a model or weights that Keras saved (.keras, .weights.h5, .h5), a run's checkpoint.npz"
Named = Sequence[tuple[str, Any]]


def check_weights(weights: str, application: bool) -> None:
    """Check what `--weights` says, as far as is possible without Keras.

    Args:
        weights: "imagenet", "none" or a file.
        application: whether the model is a backbone of `keras.applications`.
    Raises:
        OptionError: no such file, one of another kind, or ImageNet weights for another model.
        CheckpointError: the file is not what its ending says.
    """
    if weights == NONE:
        return
    if weights == IMAGENET:
        if not application:
            raise OptionError(
                "--weights imagenet: only applications/NAME has ImageNet weights; "
                f"accepted here: none, or a file in {', '.join(ENDINGS)}"
            )
        return
    path = Path(weights).expanduser()
    if not path.is_file():
        hint = nearest(weights, (IMAGENET, NONE))
        raise OptionError(f"--weights: no file '{weights}'{hint}; accepted: imagenet, none, FILE")
    if not path.name.endswith(ENDINGS):
        raise OptionError(
            f"--weights: {weights} is a file of no known kind; accepted: {', '.join(ENDINGS)}"
        )
    _check_kind(path)


def _check_kind(path: Path) -> None:
    """Check by a first look that a file is what its ending says."""
    kind = {".keras": ".keras file", ".h5": "HDF5 file", ".npz": "dlkit checkpoint"}[path.suffix]
    try:
        if path.suffix == ".h5":
            with open(path, "rb") as file:
                good = file.read(len(HDF5)) == HDF5
        else:
            with zipfile.ZipFile(path) as file:
                good = MEMBERS[path.suffix] in file.namelist()
    except zipfile.BadZipFile:
        good = False
    except OSError as error:
        raise CheckpointError(f"--weights: {path} cannot be read: {error.strerror}") from None
    if not good:
        raise CheckpointError(
            f"--weights: {path} is no {kind}, or a damaged one; accepted: {ACCEPTED}"
        )


def load_weights(model: Any, weights: str, backbone: str | None = None) -> str:
    """Put starting weights into a freshly built model.

    A head for other classes, or none at all, keeps its random weights; all else must be there.

    Args:
        model: a Keras model.
        weights: "imagenet", or a file: a Keras model (`.keras`), weights that Keras saved
            (`.weights.h5`, or `.h5` of Keras 2), or a dlkit run's `checkpoint.npz`, of which the
            best epoch counts.
        backbone: name of the model's backbone, for "imagenet".
    Returns:
        A sentence that says what was taken from where.
    Raises:
        OptionError: the ImageNet weights are neither in Keras's cache nor to be had.
        CheckpointError: the file is broken, of another architecture or not what its ending says.
    """
    if weights == IMAGENET:
        assert backbone is not None
        return _assign(model, _imagenet(backbone), f"ImageNet's for {backbone}")
    path = Path(weights).expanduser()
    _check_kind(path)
    try:
        if path.name.endswith(".weights.h5"):
            return _keras_3(model, path)
        read = {".keras": _model, ".h5": _keras_2, ".npz": best_weights}[path.suffix]
        found = read(path)
    except (OptionError, CheckpointError):
        raise
    except Exception as error:  # whatever zip, HDF5, JSON or Keras finds wrong with a file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"--weights: {path} cannot be read: {reason}") from None
    return _assign(model, found, str(path))


def take_encoder(model: Any, theirs: Named, source: str) -> str:
    """Take the layers up to the code, the one named `latent`, where name and shapes are the same.

    Args:
        model: a detector.
        theirs: path and value of each weight of another one.
        source: names it.
    Returns:
        A sentence that says how many were taken.
    Raises:
        CheckpointError: none is the same.
    """
    there = dict(theirs)
    names = [layer.name for layer in model.layers]
    encoder = [x for x in model.layers[: names.index("latent") + 1] if x.weights]
    taken = 0
    for layer in encoder:
        pairs = [(v, there.get(v.path)) for v in layer.weights]
        if all(a is not None and tuple(a.shape) == tuple(v.shape) for v, a in pairs):
            for v, array in pairs:
                v.assign(array)
            taken += 1
    if not taken:
        ours = ", ".join(f"{v.path} {_shape(v)}" for layer in encoder for v in layer.weights[:1])
        found = ", ".join(f"{name} {_shape(array)}" for name, array in theirs[:6])
        raise CheckpointError(
            f"{source} has no layer of this encoder, by name and shape; here: {ours}; there: {found}"
        )
    return f"{taken} of {len(encoder)} layers of the encoder are from {source}"


def head_layers(model: Any) -> list[Any]:
    """Return the layers that give the logits: named `head` or `...logits`, else the last with weights."""
    holding = [layer for layer in model.layers if layer.weights]
    named = [x for x in holding if x.name == "head" or x.name.endswith("logits")]
    return named or holding[-1:]


def _assign(model: Any, theirs: Named, source: str) -> str:
    """Assign by place, the head only where it fits."""
    # The normalisation inside EfficientNet takes part in the preparation, which is the builder's.
    ours = [v for v in model.weights if not _prepares(v.path)]
    theirs = [(name, array) for name, array in theirs if not _prepares(name)]
    head = {id(v) for layer in head_layers(model) for v in layer.weights}
    body = [v for v in ours if id(v) not in head]
    whole = len(theirs) == len(ours) > len(body)
    places = ours if whole else body
    for v, (name, array) in zip(places, theirs, strict=False):
        if id(v) not in head and tuple(v.shape) != tuple(array.shape):
            raise CheckpointError(
                _differs(source, f"{v.path} {_shape(v)}", f"{name} {_shape(array)}")
            )
    if len(places) != len(theirs):
        at = min(len(body), len(theirs))
        here = f"{body[at].path} {_shape(body[at])}" if at < len(body) else "nothing"
        there = f"{theirs[at][0]} {_shape(theirs[at][1])}" if at < len(theirs) else "nothing"
        raise CheckpointError(_differs(source, here, there))
    fresh = False
    for v, (_, array) in zip(places, theirs, strict=True):
        if tuple(v.shape) == tuple(array.shape):
            v.assign(array)
        else:
            fresh = True
    return f"weights {source}" + ("; the head is new" if fresh or not whole else "")


def _differs(source: str, here: str, there: str) -> str:
    return (
        f"--weights: {source} holds another architecture; the first difference: "
        f"{here} in the model, {there} in the weights"
    )


def _shape(value: Any) -> str:
    return " x ".join(map(str, value.shape)) or "scalar"


def _prepares(path: str) -> bool:
    return re.match(r"normalization(_\d+)?/", path) is not None


def _imagenet(backbone: str) -> Named:
    import keras

    from dlkit.models.backbones import BACKBONES

    kind = BACKBONES[backbone]
    try:
        # Keras prints its download to standard output, which is the result's.
        with contextlib.redirect_stdout(sys.stderr):
            whole = getattr(keras.applications, kind.function)(
                include_top=False, weights=IMAGENET, input_shape=(kind.size, kind.size, 3)
            )
    except Exception as error:  # keras.utils.get_file raises a plain Exception
        told = re.search(r"failure on (\S+?): (.*)", str(error))
        if told is None:
            raise
        cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
        file = cache / "models" / told[1].rsplit("/", 1)[-1]
        raise OptionError(
            f"--weights imagenet: {file} is not there, and {told[1]} cannot be fetched "
            f"({told[2].strip()}); put the file there, or give --weights FILE or --weights none"
        ) from None
    return [(v.path, v) for v in whole.weights]


def _model(path: Path) -> Named:
    import keras

    return [(v.path, v) for v in keras.models.load_model(path, compile=False).weights]


def best_weights(path: Path, option: str = "--weights") -> Named:
    """Return path and value of each weight at the best epoch of a run's checkpoint.

    Args:
        path: the checkpoint.
        option: what named it, for messages.
    Raises:
        CheckpointError: the file is damaged, or holds no finished epoch.
    """
    from dlkit import checkpoint

    try:
        groups, _ = checkpoint.load(path)
    except CheckpointError:
        # Its own advice is for a run's owner: to remove the file.
        raise CheckpointError(
            f"{option}: {path} is a damaged dlkit checkpoint; accepted: {ACCEPTED}"
        ) from None
    best = groups.get("best")
    if not best:
        raise CheckpointError(f"{option}: {path} holds no finished epoch")
    # The best weights are the model's variables, which come first among the live ones.
    pairs = [(name, array) for (name, _), (_, array) in zip(groups["live"], best, strict=False)]
    return [(name, array) for name, array in pairs if "seed_generator" not in name]


def _keras_2(path: Path) -> Named:
    """Read a file of Keras 2, such as those of keras.applications: layer by layer, in order."""
    import h5py

    found = []
    with h5py.File(path, "r") as file:
        group: Any = file.get("model_weights", file)
        for layer in _texts(group.attrs["layer_names"]):
            for name in _texts(group[layer].attrs["weight_names"]):
                found.append((name, np.asarray(group[layer][name])))
    return found


def _texts(values: Iterable[Any]) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _keras_3(model: Any, path: Path) -> str:
    """Load `.weights.h5`: laid out by Keras's own names, which the model's own file shows."""
    import h5py

    head = head_layers(model)
    fresh = False
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.weights.h5"
        model.save_weights(own)
        with h5py.File(own, "r+") as ours, h5py.File(path, "r") as theirs:
            here, there = _datasets(ours), _datasets(theirs)
            free = _groups_of(here, head)
            for name in [*here, *there]:
                if name.rpartition("/")[0] in free:
                    continue
                if name not in here or name not in there or here[name].shape != there[name].shape:
                    told = [
                        f"{name} {_shape(d[name])}" if name in d else "nothing"
                        for d in (here, there)
                    ]
                    raise CheckpointError(_differs(str(path), *told))
            for name, dataset in here.items():
                if name in there and there[name].shape == dataset.shape:
                    dataset[...] = there[name][...]
                else:
                    fresh = True
        model.load_weights(own)
    return f"weights {path}" + ("; the head is new" if fresh else "")


def _datasets(file: Any) -> dict[str, Any]:
    """Return the weights in a `.weights.h5` by name, without an optimiser's."""
    import h5py

    found: dict[str, Any] = {}

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not name.startswith("optimizer"):
            found[name] = node

    file.visititems(note)
    return found


def _groups_of(datasets: dict[str, Any], layers: list[Any]) -> set[str]:
    """Return the groups that hold the given layers' weights, found by their random kernels."""
    kernels = [np.asarray(layer.weights[0]) for layer in layers]
    return {
        name.rpartition("/")[0]
        for name, dataset in datasets.items()
        if any(k.shape == dataset.shape and np.array_equal(k, dataset[...]) for k in kernels)
    }
