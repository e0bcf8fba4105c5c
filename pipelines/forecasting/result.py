"""What `train` and `evaluate` answer on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.forecasting.config import TASK


def show(result: dict[str, Any]) -> str:
    """Lay a result out for a terminal, with what to type next."""
    from dlkit.evaluation.forecast import table

    report = json.loads(Path(result["report"]).read_text(encoding="utf-8"))
    short = result["run"][:8]
    return "\n".join(
        [
            f"{result['model']} on {result['data']}, {report['windows']:,} {report['split']} "
            f"windows, lookback {report['lookback']}, horizon {report['horizon']}, 95 % intervals",
            table(report),
            f"the model {report['verdict']}",
            *report["notes"],
            "",
            f"run     {result['run']}",
            f"report  {result['report']}",
            f"export  {result['export']}",
            f"took    {result['seconds']:.1f} s",
            "",
            f"next    dlkit {TASK} predict {short} {result['data']} --plot forecast.png",
            f"        dlkit serve {short}",
            "        dlkit ui",
        ]
    )
