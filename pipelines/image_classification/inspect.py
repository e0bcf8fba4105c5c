"""Look at a source before training on it."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlkit.errors import DataError, counted

if TYPE_CHECKING:
    from dlkit.data.inspect import Inspection, Twin

SHOWN = 10


@click.command("inspect")
@click.argument("source")
@click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets.")
@click.option("--download/--no-download", default=True, help="Let tensorflow-datasets download.")
@click.option(
    "--image-size",
    type=click.IntRange(4, 1024),
    help="Side that images are resized to.  [default: commonest size]",
)
@click.option(
    "--split-seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Seed of the cut into splits.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Exit 2 on images that stand in two splits, unreadable files, or a class not in train.",
)
@click.option(
    "--out",
    metavar="DIR",
    help="Folder for the pictures and the table of duplicates.  [default: inspect-SOURCE]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(source: str, strict: bool, out: str | None, as_json: bool, **given: Any) -> None:
    """Look at SOURCE before training: classes, sizes, unreadable files, duplicates, leaks.

    The source is split as training would split it. Nearly equal images are found by a perceptual
    hash and a distance; copies that were cropped, turned or mirrored are not found.
    """
    result = inspect(source, out=out, quiet=as_json, **given)
    click.echo(json.dumps(result) if as_json else show(result))
    if strict and result["fatal"]:
        raise DataError(f"--strict: {source}: {'; '.join(result['fatal'])}")


def inspect(
    source: str,
    data_dir: str | None = None,
    download: bool = True,
    image_size: int | None = None,
    split_seed: int = 0,
    out: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Inspect a source, draw its pictures and return what `--json` prints."""
    began = time.monotonic()
    from dlkit.data.images import check_source

    check_source(source, data_dir, download, training=False)
    folder = Path(out).expanduser() if out else Path(f"inspect-{plain_name(source)}")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--out: {folder} is a file; accepted: a folder, perhaps a new one")

    from dlkit.runtime import load_tensorflow

    load_tensorflow()
    from dlkit.data.inspect import inspect_images, mean_images
    from dlkit.evaluation import data_plots

    size = image_size
    found = inspect_images(
        source,
        data_dir=data_dir,
        download=download,
        shape=(size, size, None) if size else None,
        split_seed=split_seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [folder / "mean-images.png"]
    train = found.rows["train"]
    data_plots.mean_images(
        mean_images(train, len(found.labels)), found.labels, train.y, pictures[0]
    )
    twins = sorted((*found.exact, *found.near), key=lambda t: (not t.leak, t.distance))
    for stale in ("leaks.png", "duplicates.csv"):
        (folder / stale).unlink(missing_ok=True)
    if found.leaks():
        pictures.append(folder / "leaks.png")
        data_plots.twins(twins[: data_plots.MOST], found.rows, pictures[1])
    table = None
    if twins:
        table = folder / "duplicates.csv"
        write_twins(twins, table)
    return {
        **described(found),
        "pictures": [str(path.absolute()) for path in pictures],
        "table": str(table.absolute()) if table else None,
        "seconds": round(time.monotonic() - began, 2),
    }


def plain_name(source: str) -> str:
    """Return a source's name fit for a folder: `photos/` becomes `photos`."""
    last = source.rstrip("/").rpartition("/")[2] if not source.startswith("tfds:") else source
    return "".join(c if c.isalnum() or c in "._" else "-" for c in last).strip("-.") or "data"


def described(found: Inspection) -> dict[str, Any]:
    """Return an inspection as plain values."""
    sizes, counts = found.found.sizes, found.counts()
    train = {label: count for label, count in counts["train"].items() if count}
    heights, widths = (
        sorted(size[axis] for size, count in sizes.items() for _ in range(count)) for axis in (0, 1)
    )
    missing = [label for label in found.labels if label not in train]
    return {
        "task": "image-classification",
        "data": found.source,
        "classes": len(found.labels),
        "shape": list(found.rows["train"].x.shape[1:]),
        "given_splits": list(found.given),
        "splits": {
            name: {"images": len(rows.x), "classes": counts[name]}
            for name, rows in found.rows.items()
        },
        "sizes": {
            "commonest": list(max(sizes, key=lambda s: (sizes[s], -s[0] * s[1]))),
            "different": len(sizes),
            **{
                name: {
                    "min": values[0],
                    "median": values[len(values) // 2],
                    "max": values[-1],
                }
                for name, values in (("height", heights), ("width", widths))
            },
        },
        "modes": dict(found.found.modes.most_common()),
        "corrupt": found.found.corrupt,
        "exact_duplicates": duplicates(found.exact),
        "near_duplicates": duplicates(found.near),
        "leaks": [as_dict(twin) for twin in found.leaks()],
        "imbalance": {
            "ratio": round(found.imbalance(), 4),
            "largest": max(train, key=lambda label: train[label], default=None),
            "smallest": min(train, key=lambda label: train[label], default=None),
        },
        "not_in_train": missing,
        "fatal": found.fatal(),
        "warnings": found.warnings(),
        "notes": found.notes,
    }


def duplicates(twins: list[Twin]) -> dict[str, Any]:
    """Return counts of pairs within and across splits, and all pairs."""
    where: dict[str, int] = {}
    for twin in twins:
        name = "-".join(dict.fromkeys(twin.splits))
        where[name] = where.get(name, 0) + 1
    return {
        "pairs": len(twins),
        "by_split": where,
        "different_labels": sum(t.labels[0] != t.labels[1] for t in twins),
        "list": [as_dict(twin) for twin in twins],
    }


def as_dict(twin: Twin) -> dict[str, Any]:
    """Return a pair as plain values."""
    return {
        "distance": round(twin.distance, 4),
        "splits": list(twin.splits),
        "names": list(twin.names),
        "labels": list(twin.labels),
    }


def write_twins(twins: list[Twin], path: Path) -> None:
    """Write all pairs as CSV, leaks first."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        columns = ("split", "name", "label")
        writer.writerow(["leak", "distance", *(f"{c}_{i}" for i in (1, 2) for c in columns)])
        for twin in twins:
            sides = zip(twin.splits, twin.names, twin.labels, strict=True)
            cells = (cell for side in sides for cell in side)
            writer.writerow(["yes" if twin.leak else "no", f"{twin.distance:.4f}", *cells])


def show(result: dict[str, Any]) -> str:
    """Lay an inspection out for a terminal."""
    sizes, splits = result["sizes"], result["splits"]
    shape = " x ".join(map(str, result["shape"]))
    total = sum(part["images"] for part in splits.values())
    held = f"{counted(total, 'image')}, {counted(result['classes'], 'class', 'classes')}"
    lines = [f"{result['data']}: {held}, loaded as {shape}"]
    cut = [name for name in splits if name not in result["given_splits"]]
    if cut:
        lines.append(f"{' and '.join(cut)} cut off train, as training does")
    lines += ["", *_table(splits), ""]
    height, width = sizes["height"], sizes["width"]
    lines.append(
        f"sizes    {sizes['different']:,} different; commonest {sizes['commonest'][0]} x "
        f"{sizes['commonest'][1]}; height {_range(height)}, width {_range(width)}"
    )
    lines.append("modes    " + ", ".join(f"{k} {v:,}" for k, v in result["modes"].items()))
    ratio = result["imbalance"]
    if ratio["largest"] is not None:
        lines.append(
            f"balance  largest over smallest class in train {ratio['ratio']:.2f} "
            f"('{ratio['largest']}', '{ratio['smallest']}')"
        )
    for key, word in (("exact_duplicates", "equal"), ("near_duplicates", "alike")):
        found = result[key]
        where = ", ".join(f"{v:,} {k}" for k, v in found["by_split"].items())
        lines.append(
            f"{word}    {counted(found['pairs'], 'pair')}" + (f": {where}" if where else "")
        )
    for title, rows in (
        ("leaks", result["leaks"]),
        (
            "different labels",
            [
                pair
                for key in ("exact_duplicates", "near_duplicates")
                for pair in result[key]["list"]
                if pair["labels"][0] != pair["labels"][1]
            ],
        ),
    ):
        if rows:
            lines += ["", f"{title}:", *(f"  {_line(pair)}" for pair in rows[:SHOWN])]
            if len(rows) > SHOWN:
                lines.append(f"  and {len(rows) - SHOWN:,} more")
    if result["corrupt"]:
        lines += ["", "unreadable:", *(f"  {name}" for name in result["corrupt"][:SHOWN])]
        if len(result["corrupt"]) > SHOWN:
            lines.append(f"  and {len(result['corrupt']) - SHOWN:,} more (--json names them)")
    lines += ["", *(f"problem  {said}" for said in result["fatal"])]
    lines += [f"warning  {said}" for said in result["warnings"]]
    if not result["fatal"] and not result["warnings"]:
        lines.append("no problems found")
    lines += [f"note     {note}" for note in result["notes"]]
    lines += [f"picture  {path}" for path in result["pictures"]]
    if result["table"]:
        lines.append(f"table    {result['table']}")
    return "\n".join([*lines, f"took     {result['seconds']:.1f} s"])


def _range(values: dict[str, int]) -> str:
    if values["min"] == values["max"]:
        return str(values["min"])
    return f"{values['min']} to {values['max']} (median {values['median']})"


def _line(pair: dict[str, Any]) -> str:
    sides = zip(pair["splits"], pair["names"], pair["labels"], strict=True)
    return " = ".join(f"{split} {name} ({label})" for split, name, label in sides) + (
        f", distance {pair['distance']:.3f}" if pair["distance"] else ""
    )


def _table(splits: dict[str, Any]) -> list[str]:
    """Lay out images by class and split, the largest classes first, at most 30."""
    labels = list(splits["train"]["classes"])
    labels.sort(key=lambda label: -sum(part["classes"][label] for part in splits.values()))
    rows = [["class", *splits]]
    rows += [
        [label, *(f"{p['classes'][label]:,}" for p in splits.values())] for label in labels[:30]
    ]
    if len(labels) > 30:
        rows.append([f"and {len(labels) - 30} more", *("" for _ in splits)])
    rows.append(["all", *(f"{part['images']:,}" for part in splits.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
