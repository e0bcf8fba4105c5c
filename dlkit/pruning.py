"""Magnitude pruning: the smallest weights become zero, and stay so while the others are trained on."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

from dlkit.errors import SpecError


def kernels(model: keras.Model) -> list[Any]:
    """Return what is pruned: the trained kernels of dense layers, convolutions and attention.

    Biases, norms, embeddings and positions are few, and are added rather than multiplied.
    """
    return [v for v in model.trainable_variables if "kernel" in v.path.rpartition("/")[2]]


def hold(model: keras.Model) -> list[Any]:
    """Have a model's optimiser keep weights at zero.

    Returns:
        A mask of each kernel, bool: what is false is set to zero after each step. All are true at
        first, see `prune`; they belong in the checkpoint.
    Raises:
        SpecError: there are no kernels.
    """
    masks = []
    for v in kernels(model):
        mask = keras.Variable(np.ones(v.shape, bool), dtype="bool", trainable=False, name="kept")
        # Keras applies a variable's constraint at the end of each step of the optimiser.
        v.constraint = lambda w, mask=mask: ops.where(mask, w, 0.0)
        masks.append(mask)
    if not masks:
        raise SpecError(f"--prune: {model.name} has no kernels to prune")
    return masks


def prune(model: keras.Model, masks: list[Any], share: float) -> None:
    """Set the smallest weights of a trained model to zero, for good.

    They are the smallest in magnitude of all kernels together, not of each: layers that need their
    weights keep more of them. What is kept is fixed here, once, before training goes on.

    Args:
        model: trained.
        masks: from `hold`.
        share: of the kernels' weights that become zero, in (0, 1).
    Raises:
        SpecError: a kernel would be all zero.
    Reference:
        Han et al. 2015, arXiv:1506.02626: train, prune, train on. It takes a threshold a layer, from
        the deviation of its weights; here there is one for all. (Zhu & Gupta 2017, arXiv:1710.01878,
        prune little by little, each layer by the same share.)
    """
    found = kernels(model)
    sizes = np.concatenate([np.abs(np.array(v)).ravel() for v in found])
    kept = np.ones(len(sizes), bool)
    # By rank, so that the share is exact where magnitudes are equal.
    kept[np.argsort(sizes, kind="stable")[: round(share * len(sizes))]] = False
    first = 0
    for v, mask in zip(found, masks, strict=True):
        here = kept[first : first + int(np.prod(mask.shape))]
        first += len(here)
        if not here.any():
            raise SpecError(
                f"--prune {share:g}: nothing of {v.path} would be left; accepted: a smaller share"
            )
        mask.assign(here.reshape(mask.shape))
        v.assign(v.constraint(v))


def summary(model: keras.Model) -> dict[str, Any]:
    """Return how many of a model's weights are zero, and what zeros are worth.

    Returns:
        `kernel_weights` and `zeros` among them; their `sparsity`; `bytes` of all weights, and
        `gzip_bytes`, to which gzip brings them (level 6): only in a compressed file do zeros
        take less room.
    """
    found = [np.array(v) for v in kernels(model)]
    zeros, total = sum(int((a == 0).sum()) for a in found), sum(a.size for a in found)
    whole = b"".join(np.ascontiguousarray(w).tobytes() for w in model.get_weights())
    return {
        "kernel_weights": total,
        "zeros": zeros,
        "sparsity": zeros / total,
        "bytes": len(whole),
        "gzip_bytes": len(zlib.compress(whole, 6)),
    }


def said(found: dict[str, Any]) -> str:
    """Return a `summary` in words."""
    return (
        f"{found['sparsity']:.4f} of {found['kernel_weights']:,} kernel weights are zero: all "
        f"weights take {found['bytes'] / 1e3:,.1f} kB, in gzip {found['gzip_bytes'] / 1e3:,.1f} kB"
    )
