"""Gradients and activations by layer over time, and what they say of a network's health."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.plan import Position

# Probes kept; past that every second one is dropped and half as many are made.
MOST_PROBES = 200
# Smallest gradient of a layer, per weight, against the layer nearest the output. Thirty sigmoid
# layers reach 1e-16; every shipped model stays above 1e-3.
VANISHING = 1e-4
# Largest gradient per weight against the weights themselves. The shipped models stay below 1; at a
# thousand a step in any direction throws away all that the layer was.
EXPLODING = 1e3
# Below this the layer nearest the output has nothing left to pass on: the loss is zero.
NOTHING = 1e-10


def make_probe(model: keras.Model) -> Callable[[Any], dict[str, Any]]:
    """Return a function that measures a compiled model on a batch and leaves no trace in it.

    The pass is that of training (batch norm by the batch's own statistics, dropout drawing); moving
    statistics, states of random numbers and metrics are put back afterwards, to the bit.

    Returns:
        A function of a batch `(x, y)` or `(x, y, weight)` to `layers`, the names of the layers that
        have a trained kernel, from input to output, and by layer: `gradient` and `weight`, the root
        mean square of the loss's gradient and of the kernel itself; `norm`, the Euclidean norm of
        the gradient; and `activation`, the root mean square of its output, NaN where a layer's
        output cannot be told. `output` is the largest gradient, per weight, of the last layer's
        variables, bias included.
    """
    groups: dict[str, list[int]] = {}
    trained = model.trainable_variables
    for i, v in enumerate(trained):
        groups.setdefault(v.path.rpartition("/")[0], []).append(i)
    last = list(groups.values())[-1]
    kernels = {
        name: [i for i in members if len(trained[i].shape) > 1] for name, members in groups.items()
    }
    kernels = {name: members for name, members in kernels.items() if members}
    outputs, watch = _outputs(model, list(kernels))
    kept = [*model.non_trainable_variables, *model.metrics_variables]

    @tf.function
    def measure(batch: Any) -> tuple[tf.Tensor, ...]:
        before = [tf.identity(v.value) for v in kept]
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            answer = model(x, training=True)
            loss = model.compute_loss(
                x=x, y=y, y_pred=answer, sample_weight=sample_weight, training=True
            )
        found = tape.gradient(loss, trained)
        seen = list(watch(x, training=True).values()) if outputs else []
        for v, value in zip(kept, before, strict=True):
            v.assign(value)
        found = [
            tf.zeros_like(v.value) if g is None else tf.convert_to_tensor(g)
            for v, g in zip(trained, found, strict=True)
        ]
        return (
            tf.stack([_rms([found[i] for i in members]) for members in kernels.values()]),
            tf.stack([_rms([trained[i].value for i in members]) for members in kernels.values()]),
            tf.stack([_norm([found[i] for i in members]) for members in kernels.values()]),
            tf.stack([_rms([each]) for each in seen]) if seen else tf.zeros((0,)),
            tf.reduce_max(tf.stack([_rms([found[i]]) for i in last])),
        )

    def probe(batch: Any) -> dict[str, Any]:
        gradient, weight, norm, activation, output = (np.array(t) for t in measure(batch))
        by_name = dict(zip(outputs, activation.tolist(), strict=True))
        return {
            "layers": list(kernels),
            "gradient": gradient.tolist(),
            "weight": weight.tolist(),
            "norm": norm.tolist(),
            "activation": [by_name.get(name, float("nan")) for name in kernels],
            "output": float(output),
        }

    return probe


def _outputs(model: keras.Model, names: list[str]) -> tuple[list[str], Any]:
    """Return the layers whose output can be had, and a model from the input to those outputs."""
    found = {}
    for layer in model.layers if getattr(model, "inputs", None) else ():
        try:
            output = layer.output
        except (AttributeError, ValueError):  # called twice, or never
            continue
        own = [n for n in names if n == layer.name or n.startswith(layer.name + "/")]
        if own and isinstance(output, keras.KerasTensor):
            # A layer made of layers is told by the last of them.
            found[own[-1]] = output
    return list(found), keras.Model(model.inputs, found) if found else None


def _norm(tensors: list[Any]) -> tf.Tensor:
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(tf.cast(t, tf.float32))) for t in tensors]))


def _rms(tensors: list[Any]) -> tf.Tensor:
    count = tf.add_n([tf.cast(tf.size(t), tf.float32) for t in tensors])
    return _norm(tensors) / tf.sqrt(tf.maximum(1.0, count))


def record(
    probes: dict[str, Any] | None, epoch: int, probe: Callable[[Any], dict[str, Any]], batch: Any
) -> tuple[dict[str, Any], dict[str, float]]:
    """Add what a probe finds after an epoch (0: before training) to what was found before.

    Args:
        probes: what this function returned last, or None.
        epoch: from 0.
        probe: from `make_probe`; called on `batch` if this epoch is one of those that are kept: every one of the first 200, then
            every second, and so on, so that there are never more than 200.
    Returns:
        The record: `layers`, `epochs`, `every`, and for each epoch `output` and, by layer,
        `gradient`, `weight`, `norm` and `activation`. And two figures for the log, none where the
        epoch was passed over: `gradient_norm` over all kernels, and `gradient_flow`, the smallest
        layer's gradient against that of the output.
    """
    rows = ("gradient", "weight", "norm", "activation", "output")
    if probes is None:
        probes = {"layers": [], "epochs": [], "every": 1, **{name: [] for name in rows}}
    if epoch % probes["every"]:
        return probes, {}
    found = probe(batch)
    probes["layers"] = found["layers"]
    probes["epochs"].append(epoch)
    for name in rows:
        probes[name].append(found[name])
    if len(probes["epochs"]) >= MOST_PROBES:
        probes["every"] *= 2
        stay = [i for i, e in enumerate(probes["epochs"]) if e % probes["every"] == 0]
        for name in ("epochs", *rows):
            probes[name] = [probes[name][i] for i in stay]
    return probes, {
        "gradient_norm": float(np.linalg.norm(found["norm"])),
        "gradient_flow": min(found["gradient"]) / max(found["output"], NOTHING),
    }


def verdict(probes: dict[str, Any]) -> dict[str, Any]:
    """Say whether gradients reach every layer, from the median over the epochs.

    The state before training does not count where there is a later one: layers that start at zero
    pass nothing on at first, by design.

    Returns:
        `verdict`: "vanishing", "exploding" or "healthy"; `layer`: the worst, with the smallest flow
        or the largest gradient; `flow`: its gradient per weight against that of the output layer;
        `update`: the largest layer's gradient against its weights, both per weight; `words`: all
        that as a sentence.
    """
    layers = probes["layers"]
    later = slice(1, None) if len(probes["epochs"]) > 1 else slice(None)
    gradient = np.array(probes["gradient"][later], np.float64)  # (epochs, layers)
    weight = np.array(probes["weight"][later], np.float64)
    output = np.array(probes["output"][later], np.float64)
    bad = ~np.isfinite(gradient)
    weight = np.where(np.isfinite(weight), np.maximum(weight, 1e-12), 1.0)
    update = np.median(np.where(bad, np.inf, gradient) / weight, 0)
    passing = (output > NOTHING) & np.isfinite(output) & ~bad.any(1)
    flow = np.median(gradient[passing] / output[passing, None], 0) if passing.any() else None
    worst = int(np.argmax(update))
    answer: dict[str, Any] = {"verdict": "healthy", "layer": None}
    if bad.any() or update[worst] > EXPLODING:
        worst = int(np.argmax(bad.any(0))) if bad.any() else worst
        answer |= {"verdict": "exploding", "layer": layers[worst]}
        how = "is not finite" if bad.any() else f"is {update[worst]:.1e} times its weights"
        words = f"gradients are exploding: that of {layers[worst]} {how}"
        flow = None if bad.any() else flow
    elif flow is None:
        words = "gradients are zero in the output layer already: the loss has nothing left to give"
    else:
        worst = int(np.argmin(flow))
        if flow[worst] < VANISHING:
            answer |= {"verdict": "vanishing", "layer": layers[worst]}
            weak = [name for name, f in zip(layers, flow, strict=True) if f < VANISHING]
            words = (
                f"gradients are vanishing: that of {layers[worst]} is {flow[worst]:.1e} of the output "
                f"layer's per weight, and {len(weak)} of {len(layers)} layers get less than "
                f"{VANISHING:g} ({weak[0]} to {weak[-1]})"
            )
        else:
            words = (
                f"gradients reach every layer: the least is that of {layers[worst]}, {flow[worst]:.1e} "
                "of the output layer's per weight"
            )
    return answer | {
        "flow": None if flow is None else float(flow.min()),
        "update": float(update.max()) if np.isfinite(update.max()) else None,
        "words": words,
    }


def told(position: Position, folder: Path) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """Return what a finished training has to say of itself, and draw what was monitored.

    Returns:
        Entries for the report, notes for a reader, and tags for the run.
    """
    found, notes, tags = {}, list(position.notes), {}
    if position.notes:
        tags["dlkit.went_back"] = "; ".join(position.notes)
    if position.probes is not None:
        found["health"] = verdict(position.probes)
        tags["dlkit.health"] = found["health"]["words"]
        notes.append(tags["dlkit.health"])
        draw(position.probes, folder)
    return found, notes, tags


def draw(probes: dict[str, Any], folder: Path) -> None:
    """Write `gradients.png`, layers by time, and the numbers in it as `gradients.json`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    layers, epochs = probes["layers"], probes["epochs"]
    figure = Figure(figsize=(13, max(3.2, min(16.0, 1.4 + 0.2 * len(layers)))), dpi=110)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("gradient", "gradient per weight, log10"),
        ("activation", "activation, root mean square, log10"),
    )
    for place, (name, title) in enumerate(panels):
        axes = figure.add_subplot(1, 2, place + 1)
        values = np.array(probes[name], np.float64).T  # (layers, epochs)
        with np.errstate(all="ignore"):
            shown = np.ma.masked_invalid(np.log10(np.maximum(values, 1e-30)))
        image = axes.imshow(shown, aspect="auto", interpolation="nearest", cmap="viridis")
        figure.colorbar(image, ax=axes)
        step = -(-len(epochs) // 12)
        axes.set_xticks(range(0, len(epochs), step), epochs[::step])
        jump = -(-len(layers) // 60)
        axes.set_yticks(range(0, len(layers), jump), layers[::jump], fontsize=7)
        axes.set_xlabel("epoch (0: before training)")
        axes.set_title(title)
    figure.suptitle(verdict(probes)["words"], fontsize=9, wrap=True)
    figure.savefig(folder / "gradients.png")

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        return value if not isinstance(value, float) or np.isfinite(value) else None

    numbers = {name: plain(value) for name, value in probes.items()}
    (folder / "gradients.json").write_text(json.dumps(numbers), encoding="utf-8")
