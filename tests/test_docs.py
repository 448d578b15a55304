"""The API reference that ``make docs`` builds from the docstrings."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import memx_fast

MODULES = tuple(
    f"memx_fast{name}"
    for name in (
        "",
        ".checkpoints",
        ".compat",
        ".functional",
        ".memory",
        ".openstl",
        ".reference",
        ".reference_backward",
    )
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference, built by the command of the Makefile."""
    folder = tmp_path_factory.mktemp("docs")
    makefile = Path(__file__).parents[1].joinpath("Makefile").read_text()
    (line,) = (line for line in makefile.splitlines() if line.startswith("DOCUMENTED ="))
    modules = [f"memx_fast.{name}" for name in line.split()[2:]]
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "-o", str(folder)]
    done = subprocess.run([*command, "memx_fast", *modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Error importing" not in done.stderr
    return folder


def test_every_public_name_is_there(pages: Path) -> None:
    """With its arguments as a list, and the heading that says what it raises."""
    page = (pages / "memx_fast.html").read_text()
    for name in memx_fast.__all__:
        assert f'id="{name}"' in page, name
    layer = page[page.index('id="ConvLSTM"') :]
    for part in ("Arguments:", "hidden_channels", "Raises:", "ValueError"):
        assert part in layer, part
    for name in ("", "1d", "3d"):  # code, not a paragraph
        assert f"<pre><code>layer = ConvLSTM{name}(" in page, name
    for name in ("checkpoints", "compat", "functional", "reference", "samm/methods"):
        assert (pages / "memx_fast" / f"{name}.html").is_file(), name


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_say_what_they_take(module: str) -> None:
    """Every public name has a docstring; one that lists arguments lists all of them."""
    found = import_module(module)
    names = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if inspect.isfunction(value) and value.__module__ == module and not name.startswith("_")
    ]
    for name in names:
        value = getattr(found, name)
        text = inspect.getdoc(value) or ""
        assert text, name
        if "Args:" not in text:
            continue
        missing = [
            parameter
            for parameter in inspect.signature(value).parameters
            if not re.search(rf"\b{parameter}\b", text)
        ]
        assert not missing, f"{module}.{name}: {missing}"


def test_readme_names_a_test_for_every_tool() -> None:
    """A row of the table says whether the tool works, how, and which files test it."""
    root = Path(__file__).parents[1]
    table = (root / "README.md").read_text().partition("| tool | works | how | tested with |\n")[2]
    rows = [line.strip("|").split(" | ") for line in table.partition("\n\n")[0].splitlines()[1:]]
    assert len(rows) > 12
    for tool, works, how, tests in rows:
        assert how, tool
        files = re.findall(r"`(test_\w+\.py)`", tests)
        assert files or works.strip() == "no", tool
        for file in files:
            assert (root / "tests" / file).is_file(), f"{tool}: {file}"
