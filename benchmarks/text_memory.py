"""Peak memory of training on a text of 200 MB beside the same run on 1 MB.

python benchmarks/text_memory.py [--text FILE] [--megabytes 1 200] [--again]

The files are made by repeating `--text` (without it, the built-in pydoc text) in a temporary folder.
Each row is one `dlkit text-generation train` of a small transformer, 100 steps, with its n-gram,
evaluation and export, in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from results_file import peak, row

ASKED_GB = 2.0


def measure(megabytes: int, source: bytes) -> dict[str, Any]:
    """Train on so much text and return the peak resident memory of the process."""
    with tempfile.TemporaryDirectory() as home:
        with Path(home, "text.txt").open("wb") as file:
            for _ in range(-(-megabytes * 1_000_000 // len(source))):
                file.write(source)
        arguments = [
            *("text-generation", "train", "--data", "text.txt", "--steps", "100", "--json"),
            *("-p", "depth=1", "-p", "dim=64"),
        ]
        return {"megabytes": megabytes, **peak(*arguments, cwd=Path(home))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--megabytes", type=int, nargs=2, default=[1, 200])
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    if given.text is None:
        from pydoc_data.topics import topics

        source = "\n".join(topics.values()).encode()
    elif given.text.is_file() and given.text.stat().st_size:
        source = given.text.read_bytes()
    else:
        parser.error(f"--text: no text in {given.text}")
    found = [
        row("text_memory", f"{size} MB", lambda n=size: measure(n, source), given.again)
        for size in given.megabytes
    ]
    for each in found:
        print(f"{each['megabytes']:4} MB: peak {each['peak_mb']} MB, {each['seconds']} s")
    more = (found[1]["peak_mb"] - found[0]["peak_mb"]) / 1000
    print(f"difference {more:.2f} GB, asked: at most {ASKED_GB} GB")


if __name__ == "__main__":
    main()
