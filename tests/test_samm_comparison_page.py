"""``report.html``: the paper's tables beside ours, in one file, on a phone and on a wide screen."""

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from memx_fast import train_samm
from memx_fast.samm import comparison_page

SMALL = (
    *("--frame-size", "120x96", "--no-crop", "--folds", "2", "--epochs", "2"),
    *("--set", "convlstm.size=12", "--set", "convlstm.frames=3", "--set", "lbp-top.size=24"),
    *("--set", "dssn.size=24", "--set", "dssn.side=67"),
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, three methods, and all changes of the paper's network."""
    folder = tmp_path_factory.mktemp("page")
    options = ("--methods", "convlstm", "lbp-top", "dssn", "--ablate", "--classes", "3", "5")
    places = ("--cache-dir", str(folder / "cache"), "--out", str(folder / "out"))
    assert train_samm.main(["compare", *places, *SMALL, *options]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def page(compared: Path) -> str:
    return (compared / "report.html").read_text()


@pytest.fixture(scope="module")
def facts(compared: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((compared / "report.json").read_text())
    return found


class Tables(html.parser.HTMLParser):
    """The tables of every section by their captions, as rows of texts; and what a page may not have
    is refused.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sections: list[dict[str, list[list[str]]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag == "meta":
            return
        self._open.append(tag)
        if tag == "section":
            self.sections.append({})
        elif tag == "figcaption":
            self._caption = ""
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            assert self._caption not in self.sections[-1]
            self.sections[-1][self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        self.words += data.split()
        if "figcaption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def tables(page: str) -> Tables:
    return Tables(page)


def figures(line: dict[str, Any]) -> list[str]:
    """Cells of a line of scores."""
    return [
        f"{100 * line['scores'][name]:.2f} "
        f"({100 * line['intervals'][name]['low']:.1f}–{100 * line['intervals'][name]['high']:.1f})"
        for name in ("uar", "weighted_f1", "accuracy", "uf1")
    ]


def test_tables_of_methods(tables: Tables, facts: dict[str, Any]) -> None:
    """Tables 1 and 2: what the paper prints, ours with intervals, the majority line, what was not
    run; the remarks say what each figure is, and where weights come from.
    """
    lines = [
        {entry["name"]: figures(entry) for entry in task["entries"]} for task in facts["tasks"]
    ]
    majority = [figures(task["majority"]) for task in facts["tasks"]]
    ours = ["ours: UAR", "ours: weighted F1", "ours: accuracy", "ours: UF1"]
    header = ["method", "paper: accuracy", "paper: F1", *ours]
    nothing = ["", "", "", ""]
    assert tables.sections[0]["Table 1: methods, percent"] == [
        header,
        ["shallow ConvLSTM1", "78.33", "78.92", *lines[0]["convlstm"]],
        ["LBP-TOP + SVM", "", "", *lines[0]["lbp-top"]],
        ["DSSN (truncated AlexNet)2", "", "", *lines[0]["dssn"]],
        ["majority class", "", "", *majority[0]],
        ["Bi-WOOF (not run)", "58.30", "39.70", *nothing],
        ["OFF-ApexNet (not run)", "68.18", "54.23", *nothing],
    ]
    assert tables.sections[1]["Table 2: methods, percent"] == [
        header,
        ["shallow ConvLSTM1", "67.64", "67.69", *lines[1]["convlstm"]],
        ["LBP-TOP + SVM2", "39.68", "35.89", *lines[1]["lbp-top"]],
        ["DSSN (truncated AlexNet)3", "57.35", "46.44", *lines[1]["dssn"]],
        ["majority class", "", "", *majority[1]],
        ["CNN + LSTM (not run)", "50.00", "52.44", *nothing],
    ]
    assert majority[0][0].startswith("33.33 (")
    assert majority[1][0].startswith("20.00 (")
    for part in (
        "LBP-TOP + SVM. As printed: a result on CASME II.",
        "AlexNet). As printed: leave one subject out. Ours: No ImageNet weights: the convolutions",
    ):
        assert part in tables.text


def test_tables_of_confusions(tables: Tables, facts: dict[str, Any]) -> None:
    """Tables 3 and 4 are those of the paper's network; every method has its own."""
    numbers = ("Table 4: ", "Table 3: ")
    for task, number, found in zip(facts["tasks"], numbers, tables.sections, strict=False):
        for entry in task["entries"][:3]:
            start = f"{number if entry['name'] == 'convlstm' else ''}confusion of {entry['title']};"
            (caption,) = (caption for caption in found if caption.startswith(start))
            assert f"{100 * task['majority']['scores']['accuracy']:.2f} % of all clips" in caption
            header, *rows = found[caption]
            assert header == ["", *task["names"], "clips"]
            for name, counts, row in zip(task["names"], entry["confusion"], rows, strict=True):
                shares = [f"{100 * n / sum(counts):.2f} ({n})" for n in counts]
                assert row == [name, *shares, str(sum(counts))]
    assert "Table 4 of the paper has 86 + 68 + 104 clips in its rows" in tables.text
    assert "Table 3 of the paper has 64 + 76 + 46 + 60 + 54 clips" in tables.text


def test_table_of_changes(tables: Tables, facts: dict[str, Any]) -> None:
    """--ablate: the paper's network and one change at a time, in one table a task."""
    changes = {
        "none": {},
        "frames padded with zeros": {"padding": "same"},
        "peephole a channel": {"peephole": "channel"},
        "peephole a pixel": {"peephole": "spatial"},
        "peephole a pixel, output gate sees C_t": {
            "peephole": "spatial",
            "output_peephole": "current",
        },
        "hard-sigmoid gates": {"gates": "hard_sigmoid"},
        "red, green, blue": {"channels": 3},
        "pooling of stride 2": {"pool_stride": 2},
    }
    for section, task in zip(tables.sections, facts["tasks"], strict=False):
        lines = [entry for entry in task["entries"] if entry["method"] == "convlstm"]
        table = section["The paper's network with one thing changed, percent"]
        assert table[0] == ["change", "parameters", "UAR", "weighted F1", "accuracy", "UF1"]
        assert [row[0] for row in table[1:]] == [*changes, "majority class"]
        usual = lines[0]["settings"]
        assert (usual["padding"], usual["gates"], usual["channels"]) == ("valid", "sigmoid", 1)
        for row, line, changed in zip(table[1:], lines, changes.values(), strict=False):
            assert line["settings"] == {**usual, **changed}
            assert row[1:] == [f"{line['parameters']:,}", *figures(line)]
        assert table[-1][2:] == figures(task["majority"])
        # 10 x 10 states of 32 channels; 12 x 12 with zeros around; three input channels; 5 x 5.
        base = lines[0]["parameters"]
        dense = 32 * 48
        assert [line["parameters"] - base for line in lines[1:]] == [
            *((11**2 - 9**2) * dense, 3 * 32, 3 * 32 * 100, 3 * 32 * 100, 0),
            *(2 * 9 * 128, (5**2 - 9**2) * dense),
        ]


def test_everything_else_is_there(tables: Tables, page: str, facts: dict[str, Any]) -> None:
    """Subjects, folds, curves, settings, versions, defects, and what drawn faces are worth."""
    for version in facts["versions"].values():
        assert version in tables.text
    for part in (
        "nothing about people",
        "the middle 95 % of 2000 draws of as many subjects",
        "[20] of the paper",
        "Settings: epochs 2, batch 16",
        "apex outside",
        "Learning curves",
        "Results by subject",
        "Results by fold",
    ):
        assert part in tables.text, part
    # Two folds, two charts each, of the paper's network, its seven changes and DSSN, twice.
    assert page.count("<svg") == 2 * 2 * 9 * 2
    for section, task in zip(tables.sections, facts["tasks"], strict=False):
        header, *rows = section["Clips that were recognised, by subject"]
        assert header == ["subject", "clips", *(entry["title"] for entry in task["entries"][:3])]
        assert len(rows) == task["people"]
        assert sum(int(row[1]) for row in rows) == task["clips"]


def test_text_is_escaped() -> None:
    """What comes from a user's files cannot become markup."""
    assert comparison_page.element("p", "<b>&", title='"') == (
        '<p title="&quot;">&lt;b&gt;&amp;</p>'
    )


def luminance(red: float, green: float, blue: float) -> float:
    """Relative luminance of an sRGB colour as WCAG 2 defines it; components from 0 to 255."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (red / 255, green / 255, blue / 255)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("share", [0, 0.3, 0.55, 0.6, 0.7, 0.79, 0.81, 0.9, 1])
def test_shaded_cells_can_be_read(share: float) -> None:
    """Letters differ from what is under them by a ratio of 4 or more, however dark that is."""
    cell = comparison_page.shaded("5", share)
    found = re.search(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)", cell)
    assert found is not None
    *colour, opacity = map(float, found.groups())
    under = luminance(*(255 + (value - 255) * opacity for value in colour))
    letters = luminance(255, 255, 255) if "dark" in cell else luminance(17, 24, 39)
    assert (max(under, letters) + 0.05) / (min(under, letters) + 0.05) >= 4


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

MEASURE = """<script>
const wrong = [];
addEventListener('error', event => wrong.push(event.message));
document.querySelectorAll('details').forEach(part => { part.open = true; });
const boxes = [...document.querySelectorAll('body *')];
const outside = boxes.filter(box => !box.closest('.wide table') && !box.closest('svg')
  && box.getBoundingClientRect().right > innerWidth + 0.5);
const texts = boxes.filter(box => [...box.childNodes].some(node => node.nodeType === 3));
parent.postMessage(JSON.stringify({
  width: innerWidth,
  scroll: document.documentElement.scrollWidth,
  outside: outside.map(box => box.outerHTML.slice(0, 80)),
  tables: document.querySelectorAll('.wide').length,
  scrolling: [...document.querySelectorAll('.wide')].every(
    box => getComputedStyle(box).overflowX === 'auto' && box.clientWidth <= innerWidth),
  smallest: Math.min(...texts.map(box => parseFloat(getComputedStyle(box).fontSize))),
  charts: [...document.querySelectorAll('svg')].every(
    chart => chart.getBoundingClientRect().width > 100),
  fetched: performance.getEntriesByType('resource').map(entry => entry.name),
  wrong,
}), '*');
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_page_fits_a_browser(page: str, tmp_path: Path, width: int) -> None:
    """In a real browser, as wide as a phone too (which its own windows cannot be: so in a frame):
    the page is not wider than the window and only tables scroll, by themselves; letters can be
    read; nothing is fetched, and the console stays empty.
    """
    assert CHROMIUM is not None
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{MEASURE}</body>"))
    (tmp_path / "frame.html").write_text(
        "<!DOCTYPE html><title>-</title><script>addEventListener('message', event => {"
        "document.title = event.data; });</script>"
        f'<iframe src="page.html" width="{width}" height="800" style="border: 0"></iframe>'
    )
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        "--hide-scrollbars",  # they would take some of the frame's width, as on no phone
        *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"),
        *(f"--window-size={max(width, 500) + 40},900", "--virtual-time-budget=10000"),
    )
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    found = json.loads(html.unescape(title[1]))
    assert found.pop("smallest") >= 11
    assert found.pop("tables") > 10
    assert found == {
        "width": width,
        "scroll": width,
        "outside": [],
        "scrolling": True,
        "charts": True,
        "fetched": [],
        "wrong": [],
    }
    assert "CONSOLE" not in done.stderr
