"""What `inspect` says of series: sentences and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlkit.errors import counted

if TYPE_CHECKING:
    from dlkit.data.series_inspect import Inspected, Inspection

# Rows of each table.
TOLD = 20


def problems(found: Inspection) -> list[str]:
    """Say what is to be mended, a sentence a kind."""
    said, many = list(found.problems), len(found.series)

    def add(hit: list[Inspected], text: str) -> None:
        if hit:
            share = f"{len(hit):,} of {many:,} series: " if many > 1 else ""
            said.append(f"{share}{text}")

    def hits(key: str) -> tuple[list[Inspected], int]:
        hit = [one for one in found.series if one.stamps[key]]
        return hit, sum(one.stamps[key] for one in hit)

    hit, n = hits("missing")
    if hit:
        widest = max(hit, key=lambda one: one.stamps["longest_gap"])
        gaps = sum(one.stamps["gaps"] for one in hit)
        add(hit, f"{counted(n, 'stamp')} missing in {counted(gaps, 'gap')}, the longest of {widest.stamps['longest_gap']:,}; see --fill")  # fmt: skip
    hit, n = hits("duplicates")
    extra = sum(one.stamps["duplicate_rows"] for one in hit)
    add(hit, f"{counted(n, 'stamp')} more than once, {counted(extra, 'row')} too many{_such(hit, 'first_duplicates')}")  # fmt: skip
    hit, n = hits("irregular")
    add(hit, f"{counted(n, 'stamp')} off the frequency {found.alias}{_such(hit, 'first_irregular')}")  # fmt: skip
    hit, n = hits("unsorted")
    add(hit, f"{counted(n, 'row')} before the row above in time; training sorts them")
    hit, n = hits("offset_changes")
    zones = sorted({zone for one in hit for zone in one.stamps["utc_offsets"]})
    add(
        hit,
        f"the offset from UTC changes {counted(n, 'time')} ({', '.join(zones)}); training takes UTC",
    )
    for word, attribute in (("NaN", "missing"), ("infinite", "infinite")):
        for name in found.series[0].missing:
            hit = [one for one in found.series if getattr(one, attribute)[name]]
            n = sum(getattr(one, attribute)[name] for one in hit)
            values = counted(n, "value is" if n == 1 else "values are", "values are")
            add(hit, f"{values} {word} in '{name}'")
    add([one for one in found.series if one.empty], "a column holds no number at all")
    for name in found.roles.targets:
        hit = [one for one in found.series if one.targets[name]["constant"]]
        add(hit, f"'{name}' is constant")
    return said


def _such(hit: list[Inspected], key: str) -> str:
    return f", such as {_day(hit[0].stamps[key][0])}" if hit else ""


def _day(stamp: str) -> str:
    return stamp.removesuffix(" 00:00:00")


def notes(found: Inspection, details: list[dict[str, Any]]) -> list[str]:
    """Say what the figures rest on."""
    from dlkit.data.stationarity import TESTED as NEWEST
    from dlkit.evaluation.series_plots import DRAWN

    said = []
    if any(any(one.missing.values()) or one.stamps["missing"] for one in found.series):
        said.append("trend, autocorrelation and tests are of values with a straight line over gaps")
    if found.alias is None or any(one.sparse for one in found.series):
        said.append("without a usable frequency, rows are taken as they follow each other")
    tested = [t["stationarity"] for d in details for t in d["targets"].values() if "stationarity" in t]  # fmt: skip
    if any(t.get("points") == NEWEST for t in tested):
        said.append(f"ADF and KPSS are of the newest {NEWEST:,} points of a longer series")
    pairs = sum("trend" in t for d in details for t in d["targets"].values())
    if pairs > len(tested):
        said.append(f"{len(tested)} of {pairs:,} pairs of a series and a target are tested")
    if len(found.roles.targets) > DRAWN:
        said.append(f"pictures hold the first {DRAWN} of {len(found.roles.targets):,} targets")
    if len(details) < len(found.series):
        n = len(found.series) - len(details)
        said.append(
            f"{n:,} series are in the summary alone; those in detail are such as need mending, "
            "then the first"
        )
    return said


def show(result: dict[str, Any]) -> str:
    """Lay an inspection out for a terminal."""
    all_, plan, details = result["summary"], result["training"], result["details"]
    panel = result["series"] > 1
    of = f"{result['series']:,} series, " if panel else ""
    every = f"every {result['frequency']}" if result["frequency"] else "of no frequency"
    roles = {k: v for k, v in result["roles"].items() if v}
    words = "; ".join(f"{k} {v if isinstance(v, str) else ', '.join(v)}" for k, v in roles.items())
    lines = [
        f"{result['data']}: {of}{counted(result['rows'], 'row')} {every}, "
        f"{_day(all_['first'])} to {_day(all_['last'])}",
        words[:200],
        "",
    ]
    if panel:
        rows = [["over all series", "min", "median", "max"]]
        rows.append(["rows", *(f"{all_['rows'][k]:,.0f}" for k in ("min", "median", "max"))])
        names = {"at_season": f"correlation at {plan['season']}", "slope": "trend"}
        for target, each in list(all_["targets"].items())[:TOLD]:
            rows += [
                [f"{target}, {names.get(key, key)}", *(f"{v:.4g}" for v in values.values())]
                for key, values in each.items()
            ]
        lines += [*_table(rows, 1), ""]
    named = [[d["name"]] if panel else [] for d in details]
    head = ["series"] if panel else []
    keys = ("rows", "missing", "gaps", "longest_gap", "duplicates", "irregular", "unsorted")
    rows = [[*head, "from", "to", "freq", *(k.replace("_", " ") for k in keys), "nan"]]
    for name, d in zip(named, details, strict=True):
        cells = [f"{d['stamps'][k]:,}" for k in keys]
        at = [_day(d["stamps"][k]) for k in ("first", "last")]
        rows.append([*name, *at, str(d["stamps"]["frequency"] or "-"), *cells, f"{sum(d['nan'].values()):,}"])  # fmt: skip
    lines += [*_table(rows, len(head) + 3), ""]
    head.append("target")
    basic = ("min", "mean", "max", "deviation", "zeros")
    unit = "season" if plan["season"] > 1 else "step"
    values = [[*head, *basic, f"trend/{unit}", "line", "season", "strongest lags"]]
    tests = [[*head, "ADF p", "KPSS p", "verdict"]]
    for name, d in zip(named, details, strict=True):
        for target, about in list(d["targets"].items())[:TOLD]:
            line = about.get("trend", {})
            acf = about.get("autocorrelation", {"peaks": []})
            peaks = ", ".join(f"{p['lag']} ({p['autocorrelation']:.2f})" for p in acf["peaks"][:3])
            values.append(
                [
                    *name, target, *(_number(about[k]) for k in basic),
                    _number(line.get("slope")), _number(line.get("share")),
                    str(about.get("season", "-")), peaks or "-",
                ]
            )  # fmt: skip
            found = about.get("stationarity")
            if found and "verdict" in found:
                verdict = f"{found['verdict']}: {found['advice']}"
                tests.append([*name, target, found["adf"]["p"], found["kpss"]["p"], verdict])
            elif found or "trend" not in about:
                why = "constant" if about["constant"] else "no number" if not about["values"] else ""  # fmt: skip
                tests.append([*name, target, "-", "-", (found or {}).get("untested", why)])
    lines += [*_table(values, len(head), last=True), "", *_table(tests, len(head), last=True), ""]
    if panel and result["not_detailed"]:
        lines += [f"and {result['not_detailed']:,} more series, in the summary above alone", ""]
    for d in details:
        for gap in d["stamps"]["first_gaps"][:3] if not panel else ():
            lines.append(
                f"gap      {_day(gap['from'])} to {_day(gap['to'])}, {counted(gap['stamps'], 'stamp')}"
            )
    lines += [f"problem  {said}" for said in result["problems"]] or ["no problems found"]
    lines += [f"note     {said}" for said in result["notes"]]
    lines.append(f"train    {plan['command']}")
    if plan["refused"]:
        lines.append(f"refused  as it stands: {plan['refused']}")
    else:
        windows = ", ".join(f"{n:,} {split}" for split, n in plan["windows"].items())
        used = f"{counted(plan['series'], 'series', 'series')}; " if panel else ""
        lines.append(
            f"so       {used}season {plan['season']}, lookback {plan['lookback']}, horizon "
            f"{plan['horizon']}; windows {windows}"
        )
        left_out = [said for said in plan["notes"] if said.startswith("series left out")]
        lines += [f"         {said}" for said in left_out]
    pictures = result["pictures"]
    lines += [f"picture  {path}" for path in pictures[:3]]
    if len(pictures) > 3:
        lines.append(f"         and {counted(len(pictures) - 3, 'more picture')} beside it")
    return "\n".join(
        [*lines, f"report   {result['report']}", f"took     {result['seconds']:.1f} s"]
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(rows: list[list[str]], left: int, last: bool = False) -> list[str]:
    """Lay rows out in columns; the first `left` of them, and perhaps the last, begin at the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    end = len(widths) - 1 if last else -1
    return [
        "  ".join(
            cell.ljust(w) if i < left or i == end else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
