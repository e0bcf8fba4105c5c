"""What `train` and `evaluate` answer on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlkit.errors import counted
from pipelines.anomaly_detection.config import TASK


def show(result: dict[str, Any], told: dict[str, Any] | None = None) -> str:
    """Lay a result out for a terminal, with what to type next."""
    from dlkit.evaluation.report import table

    report = told or json.loads(Path(result["report"]).read_text(encoding="utf-8"))
    # Without a report of its own it is of an exported folder, which no run need be known for.
    short = result["run"][:8] if "report" in result else str(result["export"])
    file = {"table": "FILE", "series": "FILE", "images": "FILE_OR_FOLDER"}[report["kind"]]
    parts = [
        f"{name.replace('_', ' ')} {values['auroc']:.4f}"
        for name, values in report["components"].items()
    ]
    return "\n".join(
        [
            f"{result['model']} on {result['data']}, {counted(report['rows'], 'test example')}, "
            "95 % intervals",
            table(report),
            *([f"AUROC of each way of looking: {', '.join(parts)}"] if parts else []),
            f"the model {report['verdict']}",
            *report["notes"],
            "",
            f"run     {result['run']}",
            *([f"report  {result['report']}"] if "report" in result else []),
            f"export  {result['export']}",
            f"took    {result['seconds']:.1f} s",
            "",
            f"next    dlkit {TASK} predict {short} {file}",
            f"        dlkit {TASK} evaluate {short} --data SOURCE",
            f"        dlkit serve {short}",
            *(["        dlkit ui"] if "report" in result else []),
        ]
    )
