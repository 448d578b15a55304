"""The report of a comparison as one HTML file that needs no other, and reads well on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memx_fast.samm.markup import Markup, element, joined, line_chart, shaded, table

Facts = Mapping[str, Any]

_NAMES = {"uar": "UAR", "weighted_f1": "weighted F1", "accuracy": "accuracy", "uf1": "UF1"}

_PAPERS_ROWS = {
    3: (
        "Table 4 of the paper has 86 + 68 + 104 clips in its rows, where SAMM has 26 + 92 + 15: "
        "copies were among those that were judged."
    ),
    5: (
        "Table 3 of the paper has 64 + 76 + 46 + 60 + 54 clips in its rows, where SAMM has "
        "26 + 12 + 57 + 26 + 15: copies were among those that were judged."
    ),
}
_PAPERS_TABLES = {3: ("Table 1: ", "Table 4: "), 5: ("Table 2: ", "Table 3: ")}
"""Of methods, and the confusion of its own network."""


def page(facts: Facts) -> str:
    """The whole file from :func:`memx_fast.samm.comparison_facts.facts`."""
    body = [
        element("h1", "Micro-expression recognition: methods compared"),
        _summary(facts),
        *(_task(task, facts) for task in facts["tasks"]),
        _settings(facts),
    ]
    head = [
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", "Micro-expression recognition: methods compared"),
        element("style", Markup(_STYLE)),
    ]
    whole = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _summary(facts: Facts) -> Markup:
    protocol = facts["protocol"]
    how = {
        "folds": f"{protocol['count']} folds, without a subject in two of them; the epoch, or the "
        "strictness of a machine, is chosen on subjects that are neither learnt from nor judged",
        "loso": "one subject left out at a time; the epoch, or the strictness of a machine, is "
        "chosen on others that are not learnt from",
        "paper-like": f"{protocol['count']} folds, without a subject in two of them",
    }[protocol["kind"]]
    drawn = (
        " These faces are drawn: what is recognised in them says that a method works, and nothing "
        "about people."
    )
    data = f"Data: {facts['data']}.{drawn if facts['drawn'] else ''}"
    return joined(
        [
            element("p", f"{data} Protocol: {how}. Seed {protocol['seed']}."),
            *(element("p", caveat, class_="caveat") for caveat in facts["caveats"]),
            element(
                "p",
                "UAR is the mean over classes of the share recognised, UF1 the mean of their F1; "
                "weighted F1 weights them with their clips. In brackets: the middle 95 % of "
                f"{facts['bootstrap_draws']} draws of as many subjects, with replacement. What "
                f"the paper ({facts['paper']}) prints as accuracy is the mean recall, and its F1 "
                "the weighted one, over clips that include altered copies: its columns and ours "
                "answer the same question, not under the same conditions.",
            ),
        ]
    )


def _task(task: Facts, facts: Facts) -> Markup:
    classes = task["classes"]
    # The line of the majority class is in every table, whether it was chosen as a method or not.
    named = [entry for entry in task["entries"] if entry["name"] != "majority"]
    main = [entry for entry in named if not entry["ablates"]]
    ablations = [entry for entry in named if entry["ablates"]]
    counts = ", ".join(f"{n} {c}" for n, c in zip(task["names"], task["counts"], strict=True))
    parts = [
        element("h2", f"{classes} classes", id=f"classes-{classes}"),
        element("p", f"{task['clips']} clips of {task['people']} subjects: {counts}."),
        _scores(task, main),
        _data_sets(main),
        _confusions(task, main),
    ]
    if ablations:
        parts.append(_ablation(task, ablations))
    learners = [entry for entry in task["entries"] if entry["folds"][0]["history"]]
    if learners:
        parts.append(_curves(classes, learners))
    parts += [_subjects(main), _folds(task, main)]
    return element("section", *parts)


def _scores(task: Facts, entries: Sequence[Facts]) -> Markup:
    """The paper's table of methods: its figures, and ours."""
    printed = {line["name"]: line for line in task["published"]}
    rows, remarks = [], []
    for entry in entries:
        line = printed.get(entry["name"])
        title: object = entry["title"]
        said = [f"As printed: {line['note']}."] if line and line["note"] else []
        said += [f"Ours: {caveat}" for caveat in entry["caveats"]]
        if said:
            remarks.append(f"{entry['title']}. {' '.join(said)}")
            title = joined([entry["title"], element("sup", len(remarks))])
        rows.append([title, *_printed(task, line), *_figures(entry)])
    rows.append(["majority class", *_printed(task, None), *_figures(task["majority"])])
    papers = ["paper: accuracy", "paper: F1"] if printed else []
    absent = [line for name, line in printed.items() if name not in {e["name"] for e in entries}]
    for line in absent:
        rows.append([f"{line['method']} (not run)", *_printed(task, line), *[""] * len(_NAMES)])
    header = ["method", *papers, *(f"ours: {n}" for n in _NAMES.values())]
    caption = f"{_number(task, 0)}methods, percent"
    notes = element("ol", *(element("li", remark) for remark in remarks), class_="remarks")
    return joined([table(caption, header, rows), notes])


def _number(task: Facts, which: int) -> str:
    """Of the table in the paper, where it is about the same data."""
    return _PAPERS_TABLES.get(task["classes"], ("", ""))[which] if task["published"] else ""


def _printed(task: Facts, line: Facts | None) -> list[str]:
    """What the paper prints; no cell where it prints nothing about this data."""
    if not task["published"]:
        return []
    if line is None:
        return ["", ""]
    return [f"{line['accuracy']:.2f}", "" if line["f1"] is None else f"{line['f1']:.2f}"]


def _figures(entry: Facts) -> list[Markup]:
    """Cells: each figure and its interval."""
    return [
        element(
            "td",
            element("b", f"{100 * entry['scores'][name]:.2f}"),
            " ",
            element(
                "small",
                f"({100 * entry['intervals'][name]['low']:.1f}–"
                f"{100 * entry['intervals'][name]['high']:.1f})",
            ),
        )
        for name in _NAMES
    ]


def _data_sets(entries: Sequence[Facts]) -> Markup:
    """Of a study of several data sets, the figures of each."""
    first = entries[0]["megc_2019"] if entries else {}
    if not first:
        return Markup()
    lines = [(entry["title"], entry["megc_2019"], "scores") for entry in entries]
    lines.append(("majority class", first, "majority_class"))
    rows = [
        [title, *(_composite(part[kind]) for part in parts.values())]
        for title, parts, kind in lines
    ]
    header = ["method", *(f"{name} ({part['clips']} clips)" for name, part in first.items())]
    return table("UF1 / UAR of each data set, as in MEGC 2019, percent", header, rows)


def _composite(scores: Facts | None) -> str:
    if scores is None:
        return "a class is missing"
    return f"{100 * scores['uf1']:.2f} / {100 * scores['uar']:.2f}"


def _confusions(task: Facts, entries: Sequence[Facts]) -> Markup:
    """The paper's network first, as the paper has it; the others to unfold."""
    parts = []
    for entry in entries:
        shown = _confusion(task, entry)
        if entry["name"] == "convlstm":
            remark = _PAPERS_ROWS.get(task["classes"]) if task["published"] else None
            parts.append(joined([shown, element("p", remark) if remark else ""]))
        else:
            parts.append(
                element("details", element("summary", f"Confusion: {entry['title']}"), shown)
            )
    return joined(parts)


def _confusion(task: Facts, entry: Facts) -> Markup:
    rows = []
    for name, row in zip(task["names"], entry["confusion"], strict=True):
        total = sum(row)
        cells = [shaded(f"{100 * n / total:.2f} ({n})", n / total) for n in row]
        rows.append([name, *cells, total])
    number = _number(task, 1) if entry["name"] == "convlstm" else ""
    majority = 100 * task["majority"]["scores"]["accuracy"]
    caption = (
        f"{number}confusion of {entry['title']}; rows are the truth, percent of the row (clips). "
        f"Majority class: {majority:.2f} % of all clips are right"
    )
    return table(caption, ["", *task["names"], "clips"], rows)


def _ablation(task: Facts, ablations: Sequence[Facts]) -> Markup:
    whole = [entry for entry in task["entries"] if entry["name"] == "convlstm"]
    rows = [
        [title, f"{entry['parameters']:,}", *_figures(entry)]
        for title, entry in [
            *(("none", entry) for entry in whole),
            *((entry["title"], entry) for entry in ablations),
        ]
    ]
    rows.append(["majority class", "", *_figures(task["majority"])])
    return table(
        "The paper's network with one thing changed, percent",
        ["change", "parameters", *_NAMES.values()],
        rows,
    )


def _curves(classes: int, entries: Sequence[Facts]) -> Markup:
    parts = [
        element("h3", "Learning curves"),
        element(
            "p",
            "One column a fold. Above: mean cross-entropy in ",
            element("span", "training", class_="key training"),
            " and ",
            element("span", "validation", class_="key validation"),
            "; below: ",
            element("span", "UAR of the validation clips", class_="key recall"),
            " from 0 to 1, dashed that of guessing. Upright: the epoch whose weights are kept.",
        ),
    ]
    for entry in entries:
        charts = [_charts(classes, number, fold) for number, fold in enumerate(entry["folds"], 1)]
        parts.append(
            element(
                "details",
                element("summary", f"Curves: {entry['title']}"),
                element("div", *charts, class_="charts"),
                open="open" if entry["name"] == "convlstm" else None,
            )
        )
    return joined(parts)


def _charts(classes: int, number: int, fold: Facts) -> Markup:
    history, best = fold["history"], fold["best_epoch"]
    losses = [
        (kind, [epoch[f"{kind}_loss"] for epoch in history]) for kind in ("training", "validation")
    ]
    top = max(max(values) for _, values in losses)
    recalls = [epoch["validation_uar"] for epoch in history]
    return element(
        "figure",
        line_chart(f"losses of fold {number}, 0 to {top:.2f} nats", losses, top, mark=best),
        line_chart(
            f"validation UAR of fold {number}, 0 to 1",
            [("recall", recalls)],
            1.0,
            mark=best,
            level=1 / classes,
        ),
        element(
            "figcaption", f"fold {number}: epoch {best} of {len(history)}; losses to {top:.2f} nats"
        ),
    )


def _subjects(entries: Sequence[Facts]) -> Markup:
    people = sorted({person for entry in entries for person in entry["subjects"]})
    rows = []
    for person in people:
        counts = [entry["subjects"][person] for entry in entries]
        cells = [shaded(count["right"], count["right"] / count["clips"]) for count in counts]
        rows.append([person, counts[0]["clips"], *cells])
    header = ["subject", "clips", *(entry["title"] for entry in entries)]
    shown = table("Clips that were recognised, by subject", header, rows)
    return element("details", element("summary", "Results by subject"), shown)


def _folds(task: Facts, entries: Sequence[Facts]) -> Markup:
    rows = []
    for number, fold in enumerate(task["folds"]):
        cells = [f"{100 * entry['folds'][number]['scores']['uar']:.2f}" for entry in entries]
        rows.append([number + 1, ", ".join(fold["subjects"]), fold["clips"], *cells])
    header = ["fold", "subjects", "clips", *(entry["title"] for entry in entries)]
    shown = table("UAR of every fold, over the classes that it has, percent", header, rows)
    return element("details", element("summary", "Results by fold"), shown)


def _settings(facts: Facts) -> Markup:
    parts = [element("h2", "Methods, settings, versions")]
    for entry in facts["tasks"][0]["entries"]:
        settings = ", ".join(f"{name} {value}" for name, value in entry["settings"].items())
        sizes = f"{entry['parameters']:,} parameters. Settings: {settings or 'none'}."
        parts.append(
            element(
                "details",
                element("summary", f"{entry['title']} ({entry['source']})"),
                element("p", sizes),
                element("ul", *(element("li", note) for note in entry["notes"])),
            )
        )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    parts.append(element("p", f"Versions: {versions}."))
    defects = facts["defects"]
    if defects:
        listing = element("ul", *(element("li", defect) for defect in defects))
        title = f"Defects of the data: {len(defects)}"
        parts.append(element("details", element("summary", title), listing))
    return element("section", *parts)


_STYLE = """
:root { color-scheme: light; --ink: #111827; --quiet: #4b5563; --rule: #d1d5db; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { margin-top: 2.5rem; border-top: 2px solid var(--ink); padding-top: .75rem; }
p, li { max-width: 46rem; }
.table { margin: 1rem 0; }
.table figcaption { font-size: .875rem; font-weight: 600; color: inherit; max-width: 46rem;
  padding-bottom: .4rem; }
/* The shadow at the right edge is covered by white that scrolls along once the end is there. */
.wide { overflow-x: auto;
  background: linear-gradient(to left, #fff 1rem, #fff0) right / 2rem 100% no-repeat local,
    linear-gradient(to left, #0004, #0000) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--rule);
  vertical-align: baseline; }
thead th { vertical-align: bottom; font-weight: 600; min-width: 4.2rem; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 500; min-width: 0;
  position: sticky; left: 0; background: #fff; }
td.dark { color: #fff; }
small { color: var(--quiet); white-space: nowrap; }
.caveat { font-weight: 600; color: #b91c1c; }
.remarks { font-size: .875rem; color: var(--quiet); margin-top: 0; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .4rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
.charts figcaption { font-size: .8rem; color: var(--quiet); }
svg { display: block; width: 100%; margin-bottom: .3rem; }
.frame { fill: #f9fafb; stroke: var(--rule); }
polyline { fill: none; stroke-width: 1.5; stroke-linecap: round; }
.training { stroke: #1d4ed8; } .validation { stroke: #c2410c; } .recall { stroke: #047857; }
.mark { stroke: #6b7280; stroke-dasharray: 2 2; } .level { stroke: #111827; stroke-dasharray: 5 3; }
.key { font-weight: 600; }
.key.training { color: #1d4ed8; } .key.validation { color: #c2410c; }
.key.recall { color: #047857; }
"""
