"""Which engine is chosen, why another is not, and what ``python -m memx_fast.info`` says."""

import importlib.machinery
import importlib.util
import json
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from memx_fast import backends, gpu_engines, info

CPU = torch.device("cpu")

RecordWriter = Callable[..., None]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RecordWriter]:
    """Replaces the build record: ``record(torch="2.0.1")`` alters, ``record(None)`` removes it."""
    genuine = backends.build_record()
    assert genuine is not None
    replacement = tmp_path / "_build.json"
    monkeypatch.setattr(backends, "BUILD_RECORD", replacement)

    def write(*missing: None, **facts: Any) -> None:
        if not missing:
            replacement.write_text(json.dumps({**genuine, **facts}))

    forget_decisions()
    yield write
    forget_decisions()


def forget_decisions() -> None:
    backends._extension_problem.cache_clear()
    backends._triton_problem.cache_clear()
    backends._cuda_problem.cache_clear()
    backends._warn_once.cache_clear()


def test_every_engine_is_available_after_a_full_build() -> None:
    """The engines come fastest first, the compiled one is there: a missing build is a failure."""
    found = backends.available()
    assert [backend.name for backend in found] == ["cpp", "triton", "cuda", "reference"]
    for_gpus = ("triton", "cuda")
    assert all(backend.available for backend in found if backend.name not in for_gpus), found
    assert backends.load_extension()


def test_auto_takes_the_fastest_engine_for_the_device() -> None:
    """C++ serves the CPU; a device that it does not serve gets plain PyTorch without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.resolve("auto", CPU) == "cpp"
        assert backends.resolve("auto", torch.device("meta")) == "reference"
        assert backends.resolve("reference", CPU) == "reference"


def test_unknown_backend_is_refused_by_name() -> None:
    """The message holds what came and every name that would have done."""
    names = "'auto', 'cpp', 'triton', 'cuda', 'reference'"
    with pytest.raises(ValueError, match=f"backend: got 'fast', expected one of {names}$"):
        backends.resolve("fast", CPU)


def test_backend_on_a_device_it_does_not_serve_is_refused() -> None:
    """An engine that was asked for by name is never replaced silently."""
    with pytest.raises(RuntimeError, match=r"backend 'cpp' runs tensors on cpu, .* on meta"):
        backends.resolve("cpp", torch.device("meta"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"torch": "2.0.1"}, r"built with PyTorch 2\.0\.1, this is PyTorch"),
        ({"torch": "12.13.0"}, r"built with PyTorch 12\.13\.0, this is PyTorch"),
        ({"extension_suffix": ".cpython-38-x86_64-linux-gnu.so"}, "built for another interpreter"),
    ],
)
def test_extension_built_for_something_else_is_left_alone(
    record: RecordWriter, change: dict[str, str], reason: str
) -> None:
    """It is not imported: "auto" warns once, with the reason and the remedy, and takes PyTorch."""
    record(**change)
    assert not backends.load_extension()
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        chosen = [backends.resolve("auto", CPU) for _ in range(2)]
    assert chosen == ["reference", "reference"]
    assert len(caught) == 1
    assert "pip install --no-build-isolation" in str(caught[0].message)
    with pytest.raises(RuntimeError, match=f"backend 'cpp' is not available: .*{reason}"):
        backends.resolve("cpp", CPU)


def test_installation_without_extension_says_how_to_get_it(record: RecordWriter) -> None:
    """No record, no extension: the reason names the variable that left it out."""
    record(None)
    compiled, _, cuda, reference = backends.available()
    for engine in (compiled, cuda):
        assert not engine.available
        assert "MEMX_FAST_NO_EXTENSION" in engine.reason
    assert reference.available


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``machine(triton=True, gpu=False)``: whether Triton is installed, which GPU is seen.

    The extension has CUDA kernels only if ``compiled`` says for which GPUs.
    """

    genuine = backends.build_record()
    assert genuine is not None

    def pretend(
        *,
        triton: bool,
        gpu: bool,
        capability: tuple[int, int] = (9, 0),
        compiled: tuple[str, ...] = (),
    ) -> None:
        cuda = {"without_cuda": None if compiled else "no nvcc", "cuda_architectures": compiled}
        monkeypatch.setattr(backends, "build_record", lambda: {**genuine, **cuda})
        usual = importlib.util.find_spec
        specification = importlib.machinery.ModuleSpec("triton", None) if triton else None
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *args: specification if name == "triton" else usual(name, *args),
        )
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
        forget_decisions()

    yield pretend
    monkeypatch.undo()
    forget_decisions()


def test_old_gpus_get_plain_pytorch(machine: Callable[..., None]) -> None:
    """A GPU that Triton does not compile for is named in the warning, with what it lacks."""
    machine(triton=True, gpu=True, capability=(7, 5))
    with pytest.warns(RuntimeWarning, match=r"compute capability 7\.5, Triton needs 8\.0"):
        assert backends.resolve("auto", torch.device("cuda")) == "reference"


@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_gpus_get_triton(machine: Callable[..., None], device: str) -> None:
    """Where Triton and a GPU are, "auto" takes it for tensors there, and for no others."""
    machine(triton=True, gpu=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.resolve("auto", torch.device(device)) == "triton"
        assert backends.resolve("auto", CPU) == "cpp"
    assert backends.resolve("triton", torch.device(device)) == "triton"
    with pytest.raises(RuntimeError, match=r"'triton' runs tensors on cuda or xpu, .* on cpu"):
        backends.resolve("triton", CPU)


def test_missing_triton_gives_one_warning_and_the_reference(machine: Callable[..., None]) -> None:
    """The warning names the extra to install; asked for by name, it is an error that does."""
    machine(triton=False, gpu=True)
    with pytest.warns(
        RuntimeWarning, match=r"Triton is not installed; .*memx_fast\[triton\]"
    ) as found:
        chosen = [backends.resolve("auto", torch.device("cuda")) for _ in range(2)]
    assert chosen == ["reference", "reference"]
    assert len(found) == 1
    with pytest.raises(RuntimeError, match="backend 'triton' is not available: Triton is not"):
        backends.resolve("triton", torch.device("cuda"))


def test_missing_engines_for_gpus_are_in_one_warning(machine: Callable[..., None]) -> None:
    """Plain PyTorch takes the place of both: the reasons of both are given."""
    machine(triton=False, gpu=True)
    with pytest.warns(RuntimeWarning, match=r"Triton is not.*has no CUDA kernels: no nvcc"):
        assert backends.resolve("auto", torch.device("cuda")) == "reference"
    with pytest.raises(RuntimeError, match=r"backend 'cuda' is not available: .*no nvcc"):
        backends.resolve("cuda", torch.device("cuda"))


def test_cuda_kernels_do_without_triton(machine: Callable[..., None]) -> None:
    """Where only one engine for GPUs is there, "auto" takes it and has nothing to warn of."""
    machine(triton=False, gpu=True, compiled=("9.0",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.resolve("auto", torch.device("cuda")) == "cuda"
    assert not backends.has_both_for_gpus(torch.device("cuda"))
    with pytest.raises(RuntimeError, match=r"'cuda' runs tensors on cuda, .* on cpu"):
        backends.resolve("cuda", CPU)


@pytest.mark.parametrize(
    ("capability", "compiled", "fits"),
    [
        ((9, 0), ("8.0", "9.0"), True),
        ((8, 9), ("8.0",), True),
        ((8, 0), ("8.6",), False),
        ((9, 0), ("8.0",), False),
        ((9, 0), ("8.0+PTX",), True),
        ((12, 0), ("8.0", "10.0+PTX"), True),
        ((10, 0), ("9.0a+PTX",), False),
        ((9, 0), ("9.0a",), True),
        ((9, 0), ("Hopper",), True),
        ((7, 5), ("8.0", "10.0+PTX"), False),
        ((7, 5), ("Ampere",), False),
    ],
)
def test_cuda_kernels_fit_the_gpu_or_say_why_not(
    machine: Callable[..., None],
    capability: tuple[int, int],
    compiled: tuple[str, ...],
    fits: bool,
) -> None:
    """Machine code runs on GPUs of its major version, PTX on all later ones."""
    machine(triton=True, gpu=True, capability=capability, compiled=compiled)
    (found,) = (backend for backend in backends.available() if backend.name == "cuda")
    assert found.available == fits
    if not fits:
        reason = f"compute capability {capability[0]}.{capability[1]}, .* for {compiled[0]}"
        assert re.search(reason.replace("+", r"\+"), found.reason)


def test_triton_is_taken_as_long_as_nothing_was_measured(machine: Callable[..., None]) -> None:
    """Both engines can run: the table decides, and without a line for it Triton is taken."""
    machine(triton=True, gpu=True, compiled=("9.0",))
    device = torch.device("cuda")
    assert backends.has_both_for_gpus(device)
    assert backends.resolve("auto", device) == gpu_engines.DEFAULT == "triton"


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_engine_without_a_gpu_says_so(machine: Callable[..., None], name: str) -> None:
    """The list of engines gives the reason."""
    machine(triton=True, gpu=False, compiled=("9.0",))
    (found,) = (backend for backend in backends.available() if backend.name == name)
    assert not found.available
    assert found.reason == "this PyTorch sees no GPU"


def test_another_patch_release_of_pytorch_is_accepted(record: RecordWriter) -> None:
    """The C++ interface is stable within major.minor, whatever the patch level and local label."""
    major_minor = ".".join(torch.__version__.split(".")[:2])
    record(torch=f"{major_minor}.99+elsewhere")
    assert backends.resolve("auto", CPU) == "cpp"


def test_record_tells_how_the_extension_was_built() -> None:
    """The build leaves the facts that the check at import needs, and those that a report needs."""
    found = backends.build_record()
    assert found is not None
    assert found["torch"] == torch.__version__
    assert found["extension_suffix"] == sysconfig.get_config_var("EXT_SUFFIX")
    assert found["compiler"]
    assert found["without_cuda"] if torch.version.cuda is None else "cuda_compiler" in found
    assert "-O3" in found["flags"]


def test_resolve_is_a_constant_to_the_compiler() -> None:
    """A function that chooses its engine compiles into one graph, without a break."""

    @torch.compile(fullgraph=True, backend="eager")
    def choose(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if backends.resolve("auto", x.device) == "cpp" else x - 1

    assert choose(torch.zeros(())).item() == 1


def test_info_as_json_holds_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` prints what a report needs, and what it says of the engines is what they do."""
    assert info.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["processor"]["name"]
    assert facts["processor"]["cores"] >= 1
    assert facts["threads"] == torch.get_num_threads()
    assert facts["devices"][0]["device"] == "cpu"
    assert facts["devices"][0]["backend"] == "cpp"
    names = [backend["name"] for backend in facts["backends"]]
    assert names == ["cpp", "triton", "cuda", "reference"]
    extension = facts["extension"]
    assert extension["instruction_set_in_use"] == extension["instruction_sets"][-1]


def test_info_as_text_explains_a_missing_engine(
    record: RecordWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text names the engine that is missing, why, and what is chosen instead; no warning."""
    record(torch="2.0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert info.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["cpp", "no"] and "2.0.1" in line for line in lines)
    assert any(line.split()[:2] == ["cpu", "reference"] for line in lines)
    assert "  not loaded; the backends above say why" in lines
