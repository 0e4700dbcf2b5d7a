"""What systems score, drawn: by length of the list, for whom, of what, over training."""

from collections.abc import Mapping, Sequence
from html import escape

from deeprec.evaluation.page import drawing
from deeprec.evaluation.page.piece import Content, figure, legend, table

SLICED = ("ndcg", "recall")


def curves(report: Content) -> str:
    systems = report["systems"]
    last = [
        f"{one['name']} {one['curve']['recall'][-1]:.3f} at {one['curve']['k'][-1]}"
        for one in systems
    ]
    finding = f"ndcg and recall against k; recall of the longest lists: {', '.join(last)}"
    return legend(report) + figure(drawing.curves(systems), finding, "Means over all users.")


def slices(report: Content) -> str:
    k = report["headline"]
    parts = []
    for one in report["slices"]:
        kept = [s for s in report["systems"] if one["name"] in s.get("slices", {})]
        if not kept:
            continue
        unit = "users" if one["of"] == "users" else "taken"
        names = [
            f"{band} ({size:,} {unit})"
            for band, size in zip(one["bands"], one["sizes"], strict=True)
        ]
        found = [[band["ndcg"] for band in s["slices"][one["name"]]] for s in kept]
        drawn = drawing.bands(names, found, f"ndcg@{k}")
        finding = f"ndcg@{k} by {one['says']}: " + "; ".join(
            f"{name} {_of_band(band)}" for name, band in zip(names, found[0], strict=True)
        )
        note = (
            "Only what is in the band is relevant there, for users who took any of it."
            if one["of"] != "users"
            else ""
        )
        table = _slice_table(one, kept)
        parts.append(
            f"<h3>{escape(one['says'].capitalize())}</h3>{figure(drawn, finding, note)}{table}"
        )
    return legend(report) + "".join(parts) if parts else ""


def _of_band(found: Mapping[str, float] | None) -> str:
    return "nobody" if found is None else f"{found['mean']:.3f}"


def _slice_table(one: Content, systems: Sequence[Content]) -> str:
    rows = []
    for at, band in enumerate(one["bands"]):
        of_band = [system["slices"][one["name"]][at] for system in systems]
        cells = [
            f"<td>{' / '.join(_of_band(found[name]) for name in SLICED)}</td>" for found in of_band
        ]
        rows.append((escape(band), [f"<td>{one['sizes'][at]:,}</td>", *cells]))
    heads = ["band", "size", *(escape(system["name"]) for system in systems)]
    shown = table("ndcg / recall", heads, rows)
    return f"<details><summary>as numbers</summary>{shown}</details>"


def shelf(report: Content) -> str:
    """By slices of items: how the places of the lists are shared out, and what was taken."""
    parts = []
    for one in report["slices"]:
        if one["of"] != "items" or not sum(one["sizes"]):
            continue
        rows = [("what was taken", _shares(one["sizes"]))]
        for system in report["systems"]:
            places = system.get("recommended", {}).get(one["name"], [])
            if sum(places):
                rows.append((system["name"], _shares(places)))
        if len(one["bands"]) <= 6:
            finding = "; ".join(
                f"{name}: "
                + ", ".join(
                    f"{100 * s:.0f} % {b}" for b, s in zip(one["bands"], of_row, strict=True)
                )
                for name, of_row in rows
            )
            drawn = figure(drawing.shares(one["bands"], rows), finding, "")
        else:
            drawn = _share_table(one["bands"], rows)
        parts.append(f"<h3>{escape(one['says'].capitalize())}</h3>{drawn}")
    note = f"Shares of the first {report['headline']} places of all lists."
    return f'<p class="soft">{note}</p>' + "".join(parts) if parts else ""


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / sum(counts) for count in counts]


def _share_table(bands: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    heads = ["band", *(escape(name) for name, _ in rows)]
    shown = [
        (escape(band), [f"<td>{100 * shares[at]:.1f} %</td>" for _, shares in rows])
        for at, band in enumerate(bands)
    ]
    return table("", heads, shown)


def training(report: Content) -> str:
    runs = [
        (at, system["name"], system["training"])
        for at, system in enumerate(report["systems"])
        if system.get("training")
    ]
    if not runs:
        return ""
    finding = "; ".join(f"{name}: {len(epochs)} epochs" for _, name, epochs in runs)
    return legend(report, [at for at, _, _ in runs]) + figure(
        drawing.training(runs),
        finding,
        "Each epoch's mean loss, and ndcg on the validation part.",
    )
