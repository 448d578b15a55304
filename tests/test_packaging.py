"""What is installed, how the build fails, and what an installation that does not fit does."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

import memx_fast

ROOT = Path(__file__).parents[1]
KERNELS = tuple((ROOT / "triton_kernels").glob("*.py"))
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")

FORWARD = textwrap.dedent(
    """
    import torch, memx_fast
    from memx_fast import backends
    layer = memx_fast.ConvLSTM(1, 4)
    output, (h_n, c_n) = layer(torch.zeros(2, 1, 1, 5, 6))
    print(memx_fast.__file__)
    print(backends.resolve("auto", torch.device("cpu")), *output.shape)
    """
)

# The operators are defined whether an engine is there or not.
OPERATOR_ON_META = textwrap.dedent(
    """
    import torch, memx_fast
    with torch.device("meta"):
        layer = torch.zeros(2, 1, 8, 5, 6), None, torch.zeros(8, 2, 3, 3), None, None, None, None
    output = torch.ops.memx_fast.conv_lstm(*layer, (0, 0), False, True, 1)[0]
    assert output.shape == (2, 1, 2, 5, 6)
    """
)

# An extension that compiles in a moment.
SMALL_EXTENSION = """\
#include <Python.h>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1};
PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
"""


def run(
    *command: str | Path, cwd: Path, expect: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command; its exit status must be the expected one."""
    finished = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PIP_NO_INDEX": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == expect, finished.stdout + finished.stderr
    return finished


def copy_of_sources(folder: Path) -> Path:
    """The working tree, and what was built from it, so that nothing is compiled again."""
    for name in SOURCES:
        shutil.copy2(ROOT / name, folder)
    for name in ("memx_fast", "triton_kernels", "csrc", "build", "tests"):
        if (ROOT / name).is_dir():
            built = ("__pycache__", "*.so", "_build.json")
            # What Triton compiled is not of the package, and may be changing meanwhile.
            left_out = shutil.ignore_patterns(*(("triton-*",) if name == "build" else built))
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    return folder


def small_project(folder: Path, source: str) -> Path:
    """The project with an extension of one file."""
    for name in SOURCES:
        shutil.copy2(ROOT / name, folder)
    (folder / "csrc").mkdir()
    (folder / "csrc" / "ops.cpp").write_text(source)
    for name in ("memx_fast", "triton_kernels"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    return folder


def build_wheel(project: Path, into: Path, **environment: str) -> Path:
    """The wheel that pip builds from a project."""
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps")
    run(*pip, "-w", into, project, cwd=into, **environment)
    (wheel,) = into.glob("*.whl")
    return wheel


def install(wheel: Path, into: Path) -> Path:
    """A folder that, on the path, has the wheel installed."""
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", into, wheel, cwd=ROOT)
    return into


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree."""
    project = copy_of_sources(tmp_path_factory.mktemp("project"))
    return build_wheel(project, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The wheel, installed in a folder of its own that a test may change."""
    return install(wheel, tmp_path / "installed")


def test_version_is_the_same_everywhere() -> None:
    """The package, its metadata and the newest entry of the change log agree."""
    assert importlib.metadata.version("memx_fast") == memx_fast.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{memx_fast.__version__}]" in changes


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module, the extension, its record and the type marker; no sources, no tests."""
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "memx_fast").rglob("*.py")}
    modules |= {f"memx_fast/triton_kernels/{path.name}" for path in KERNELS}
    assert modules <= names
    assert {"memx_fast/_build.json", "memx_fast/py.typed", "memx_fast/gpu_engines.csv"} <= names
    assert any(name.startswith("memx_fast/_C.") for name in names)
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"memx_fast", f"memx_fast-{memx_fast.__version__}.dist-info"}


@pytest.mark.slow
def test_installed_wheel_works_away_from_its_sources(installed: Path, tmp_path: Path) -> None:
    """The layer runs on the compiled engine and the report says so, from another folder."""
    forward = run(sys.executable, "-c", FORWARD, cwd=tmp_path, PYTHONPATH=str(installed))
    origin, result = forward.stdout.splitlines()
    assert Path(origin).is_relative_to(installed)
    assert result == "cpp 2 1 4 5 6"
    assert "Warning" not in forward.stderr
    report = (sys.executable, "-m", "memx_fast.info", "--json")
    facts = json.loads(run(*report, cwd=tmp_path, PYTHONPATH=str(installed)).stdout)
    assert facts["devices"][0]["backend"] == "cpp"


@pytest.mark.slow
def test_other_pytorch_gives_one_warning_and_the_reference(installed: Path, tmp_path: Path) -> None:
    """An extension that was built with another PyTorch is left alone: no undefined symbol."""
    record = installed / "memx_fast" / "_build.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "torch": "2.0.1"}))
    forward = run(sys.executable, "-c", FORWARD, cwd=tmp_path, PYTHONPATH=str(installed))
    assert forward.stdout.splitlines()[1] == "reference 2 1 4 5 6"
    assert forward.stderr.count("RuntimeWarning") == 1
    assert "built with PyTorch 2.0.1" in forward.stderr


@pytest.mark.slow
def test_unloadable_extension_gives_one_warning_and_the_reference(
    installed: Path, tmp_path: Path
) -> None:
    """An extension that the system cannot load is named as the reason."""
    (library,) = (installed / "memx_fast").glob("_C.*")
    library.write_bytes(b"not a library")
    forward = run(sys.executable, "-c", FORWARD, cwd=tmp_path, PYTHONPATH=str(installed))
    assert forward.stdout.splitlines()[1] == "reference 2 1 4 5 6"
    assert forward.stderr.count("RuntimeWarning") == 1
    assert "cannot be loaded" in forward.stderr


@pytest.mark.slow
def test_installation_without_a_compiler(tmp_path: Path) -> None:
    """MEMX_FAST_NO_EXTENSION=1 needs neither compiler nor PyTorch to build; layer and operators
    are there."""
    (tmp_path / "project").mkdir()
    (tmp_path / "wheel").mkdir()
    project = copy_of_sources(tmp_path / "project")
    shutil.rmtree(project / "build", ignore_errors=True)
    pure = build_wheel(
        project, tmp_path / "wheel", MEMX_FAST_NO_EXTENSION="1", CXX="/no/such/compiler"
    )
    assert pure.name.endswith("-py3-none-any.whl")
    folder = install(pure, tmp_path / "installed")
    forward = run(sys.executable, "-c", FORWARD, cwd=tmp_path, PYTHONPATH=str(folder))
    assert forward.stdout.splitlines()[1] == "reference 2 1 4 5 6"
    assert forward.stderr.count("RuntimeWarning") == 1
    run(sys.executable, "-c", OPERATOR_ON_META, cwd=tmp_path, PYTHONPATH=str(folder))


def test_source_distribution_is_complete(tmp_path: Path) -> None:
    """It holds every kernel, the tests and the Makefile: whoever has it can build it."""
    project = tmp_path / "project"
    project.mkdir()
    copy_of_sources(project)
    shutil.copy2(ROOT / "Makefile", project)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", build, cwd=project)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    sources |= {f"triton_kernels/{path.name}" for path in KERNELS}
    assert sources <= names
    assert {"Makefile", "LICENSE", "setup.py", "tests/test_packaging.py"} <= names


def test_missing_compiler_is_explained(tmp_path: Path) -> None:
    """One message: what is missing, how to get it, how to do without. No traceback."""
    project = small_project(tmp_path, SMALL_EXTENSION)
    build = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
    failed = run(*build, cwd=project, expect=1, CXX="no-such-compiler")
    assert "'no-such-compiler' was not found" in failed.stderr
    assert "MEMX_FAST_NO_EXTENSION=1" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_missing_pytorch_is_explained(tmp_path: Path) -> None:
    """One message: install torch first, and with which command to go on. No traceback."""
    project = small_project(tmp_path, SMALL_EXTENSION)
    without_torch = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path('setup.py')"
    failed = run(sys.executable, "-c", without_torch, cwd=project, expect=1)
    assert "Install torch first" in failed.stderr
    assert "pip install --no-build-isolation ." in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """What looks like CUDA 13.0, with a compiler that knows nothing after Hopper; and a wrapper."""
    home, wrapper = tmp_path / "cuda", tmp_path / "bin" / "nvcc"
    nvcc = home / "bin" / "nvcc"
    for folder in (home / "nvvm", nvcc.parent, wrapper.parent):
        folder.mkdir(parents=True)
    nvcc.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "release 13.0, V13.0.88" && exit\n'
        "printf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\n'\n"
    )
    wrapper.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    for program in (nvcc, wrapper):
        program.chmod(0o755)
    return home


def cuda_found(version: str | None, **environment: str) -> dict[str, str]:
    """What the build would say of CUDA, with a PyTorch that is built with this version of it."""
    program = f"""
import json, os, runpy, setuptools, torch
setuptools.setup = lambda **arguments: None
torch.version.cuda = {version!r}
facts = runpy.run_path("setup.py")["find_cuda"]().facts()
print(json.dumps(facts | {{"CUDA_HOME": os.environ.get("CUDA_HOME")}}))
"""
    usual = {"MEMX_FAST_NO_EXTENSION": "1", "TORCH_CUDA_ARCH_LIST": "", "MEMX_FAST_NO_CUDA": ""}
    said = run(sys.executable, "-c", program, cwd=ROOT, **{**usual, **environment})
    facts: dict[str, str] = json.loads(said.stdout)
    return facts


@pytest.mark.parametrize(
    ("wanted", "compiled"),
    [
        ("", ["8.0", "9.0+PTX"]),
        ("9.0a", ["9.0a"]),
        ("7.5 8.0;9.0+PTX", ["8.0", "9.0+PTX"]),
        ("Hopper", ["Hopper"]),
    ],
)
def test_cuda_kernels_are_built_where_they_can_be(
    toolkit: Path, wanted: str, compiled: list[str]
) -> None:
    """For the GPUs that were asked for and the kernels run on; no GPU is needed."""
    found = cuda_found("13.0", CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST=wanted)
    assert found["without_cuda"] is None
    assert found["cuda_architectures"] == compiled
    assert (found["cuda_compiler"], found["CUDA_HOME"]) == ("nvcc 13.0", str(toolkit))


@pytest.mark.parametrize(
    ("version", "change", "reason"),
    [
        (None, {}, "is one without CUDA"),
        ("13.0", {"MEMX_FAST_NO_CUDA": "1"}, "MEMX_FAST_NO_CUDA was set"),
        ("13.0", {"CUDA_HOME": "/no/such/folder"}, "install the CUDA toolkit 13.0"),
        ("12.8", {}, "nvcc 13.0 was found when it was built, where PyTorch"),
        ("13.0", {"TORCH_CUDA_ARCH_LIST": "7.0;7.5+PTX"}, "the kernels need 8.0"),
    ],
)
def test_cuda_kernels_are_left_out_with_a_reason(
    toolkit: Path, version: str | None, change: dict[str, str], reason: str
) -> None:
    """The rest of the package is built all the same."""
    found = cuda_found(version, **{"CUDA_HOME": str(toolkit), **change})
    assert reason in found["without_cuda"]


def test_wrapper_of_nvcc_is_not_taken_for_the_toolkit(toolkit: Path) -> None:
    """What matters is the folder with the headers and libraries."""
    path = f"{toolkit.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    found = cuda_found("13.0", PATH=path, CUDA_HOME="", CUDA_PATH="")
    assert found["CUDA_HOME"] != str(toolkit.parent)


def test_failing_build_fails(tmp_path: Path) -> None:
    """Code that does not compile ends the installation; it does not install something lesser."""
    project = small_project(tmp_path, '#error "broken on purpose"\n')
    build = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
    failed = run(*build, cwd=project, expect=1)
    assert "broken on purpose" in failed.stdout + failed.stderr
    assert not (project / "memx_fast" / "_build.json").exists()


def test_only_what_fits_is_reused(tmp_path: Path) -> None:
    """A second build compiles nothing; one for another PyTorch compiles everything again."""
    project = small_project(tmp_path, SMALL_EXTENSION)
    build = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
    run(*build, cwd=project)
    (object_file,) = (project / "build").rglob("*.o")
    compiled = object_file.stat().st_mtime_ns
    run(*build, cwd=project)
    assert object_file.stat().st_mtime_ns == compiled
    (record,) = (project / "build").rglob("_build.json")
    record.write_text(record.read_text().replace("torch", "earlier torch"))
    run(*build, cwd=project)
    assert object_file.stat().st_mtime_ns > compiled
    assert record.read_text() == (project / "memx_fast" / "_build.json").read_text()
