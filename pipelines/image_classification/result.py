"""What `train` and `evaluate` answer on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlkit.errors import counted
from pipelines.image_classification.config import TASK


def show(result: dict[str, Any]) -> str:
    """Lay a result out for a terminal, with what to type next."""
    from dlkit.evaluation.report import table

    report = json.loads(Path(result["report"]).read_text(encoding="utf-8"))
    short = result["run"][:8]
    images = counted(report["rows"], f"{report['split']} image")
    return "\n".join(
        [
            f"{result['model']} on {result['data']}, {images}, 95 % intervals",
            table(report),
            f"the model {report['verdict']}",
            *report["notes"],
            "",
            f"run     {result['run']}",
            f"report  {result['report']}",
            f"export  {result['export']}",
            f"took    {result['seconds']:.1f} s",
            "",
            f"next    dlkit {TASK} predict {short} FILE_OR_FOLDER",
            f"        dlkit serve {short}",
            "        dlkit ui",
        ]
    )
