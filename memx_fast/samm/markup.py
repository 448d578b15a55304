"""HTML and SVG from plain values: elements, tables, line charts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is markup already, and is not escaped again."""


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """``<tag attributes>content</tag>``; an underscore at the end of an attribute's name is cut."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{given}>{joined(content)}</{tag}>")


def joined(parts: Iterable[object]) -> Markup:
    """Parts one after the other; what is no markup is escaped."""
    return Markup(
        "".join(part if isinstance(part, Markup) else html.escape(str(part)) for part in parts)
    )


def table(caption: object, header: Sequence[object], rows: Iterable[Sequence[object]]) -> Markup:
    """A table that scrolls by itself where it is too wide; the first column names the rows.

    Its caption stands above what scrolls: a ``caption`` would be as wide as the table. A cell that
    is an element ``td`` or ``th`` already is taken as it is.
    """
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = (
        element("tr", element("th", first, scope="row"), *map(_cell, rest)) for first, *rest in rows
    )
    whole = element("table", element("thead", head), element("tbody", *body))
    return element(
        "figure",
        element("figcaption", caption),
        element("div", whole, class_="wide", tabindex=0),
        class_="table",
    )


def _cell(content: object) -> Markup:
    if isinstance(content, Markup) and content.startswith(("<td", "<th")):
        return content
    return element("td", content)


_WHITE_ABOVE = 0.8
"""White letters are easier to read than dark ones on what is darker than this."""


def shaded(content: object, share: float) -> Markup:
    """A cell as dark as a share from 0 to 1."""
    return element(
        "td",
        content,
        class_="dark" if share > _WHITE_ABOVE else None,
        style=f"background:rgba(29,78,216,{share:.3f})",
    )


_WIDTH, _HEIGHT, _MARGIN = 150.0, 90.0, 4.0


def line_chart(
    label: str,
    lines: Sequence[tuple[str, Sequence[float]]],
    top: float,
    *,
    mark: int | None = None,
    level: float | None = None,
) -> Markup:
    """Lines over 1, 2, 3, ... from 0 to ``top`` as SVG.

    Args:
        label: said to those who do not see it.
        lines: class of the style sheet, and values.
        top: value at the upper edge.
        mark: number to mark with an upright line.
        level: value to mark with a level line.
    """
    count = max(len(values) for _, values in lines)

    def across(number: float) -> float:
        return _MARGIN + (number - 1) / max(count - 1, 1) * (_WIDTH - 2 * _MARGIN)

    def up(value: float) -> float:
        return _HEIGHT - _MARGIN - min(value / top, 1.0) * (_HEIGHT - 2 * _MARGIN)

    shapes = [element("rect", width=f"{_WIDTH:g}", height=f"{_HEIGHT:g}", class_="frame")]
    if level is not None:
        shapes.append(_line(0, up(level), _WIDTH, up(level), "level"))
    if mark:
        shapes.append(_line(across(mark), 0, across(mark), _HEIGHT, "mark"))
    for kind, values in lines:
        points = [
            f"{across(number):.1f},{up(value):.1f}" for number, value in enumerate(values, start=1)
        ]
        # A line from a point to itself shows as a dot, a point alone not at all.
        points += points if len(points) == 1 else []
        shapes.append(element("polyline", points=" ".join(points), class_=kind))
    return element(
        "svg", *shapes, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img", aria_label=label
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element(
        "line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind
    )
