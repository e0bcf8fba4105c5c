"""What `train` and `evaluate` answer on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlkit.errors import counted
from pipelines.image_synthesis.config import TASK


def show(result: dict[str, Any]) -> str:
    """Lay a result out for a terminal, with what to type next."""
    from dlkit.evaluation.report import table

    report = json.loads(Path(result["report"]).read_text(encoding="utf-8"))
    short = result["run"][:8]
    made = counted(report["rows"], "picture")
    against = "all of it" if report["split"] == "all" else f"the {report['split']} split"
    if report.get("translates"):
        more = [f"next    dlkit {TASK} translate {short} PICTURE... --out FOLDER"]
    else:
        more = [f"next    dlkit {TASK} generate {short} --count 64 --out grid.png"]
        more.append(f"        dlkit {TASK} interpolate {short} 1 2 --out strip.png")
    return "\n".join(
        [
            f"{result['model']} on {result['data']}, {made} against {against}, 95 % intervals",
            table(report),
            f"the model {report['verdict']}",
            *report["notes"],
            "",
            f"run     {result['run']}",
            f"report  {result['report']}",
            f"export  {result['export']}",
            f"took    {result['seconds']:.1f} s",
            "",
            *more,
            f"        dlkit serve {short}",
            "        dlkit ui",
        ]
    )
