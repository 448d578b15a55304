"""``train-samm validate`` on releases other than SAMM: what each layout makes a defect."""

import shutil
from pathlib import Path

import openpyxl
import pytest

from memx_fast import train_samm
from memx_fast.samm import frames as image_files
from memx_fast.samm import miniatures
from memx_fast.samm.annotations import LEFT_OUT
from memx_fast.samm.formats import FORMATS, open_format
from memx_fast.samm.labels import TASKS
from memx_fast.samm.validation import validate


def command(*options: object) -> int:
    return train_samm.main(["validate", *map(str, options)])


@pytest.fixture(scope="module", params=list(miniatures.MINIATURES))
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of another release, to be copied; the folder has the name of the format."""
    root: Path = tmp_path_factory.mktemp("drawn") / request.param
    miniatures.generate(root, request.param, frame_size=(170, 136))
    return root


@pytest.fixture
def other(drawn: Path, tmp_path: Path) -> Path:
    """A miniature that may be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / drawn.name))


def kinds(root: Path, clip: str, **options: object) -> set[tuple[str, str]]:
    """Kind and repair of the defects of a clip."""
    found = validate(root, quick=True, **options)
    return {(defect.kind, defect.repair) for defect in found.defects if defect.clip == clip}


def test_miniatures_as_released(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frames outside onset and offset and recordings are no defects: only what the loader says."""
    form, book = open_format(drawn)
    clips, defects = form.read(drawn, book)
    found = validate(drawn)
    assert {defect for defect in found.defects if defect.kind != "no face"} == set(defects)
    assert (found.form, found.workbook, found.usable) == (form, book, clips)
    assert command(drawn, "--quick") == bool(defects)
    assert f"({form.title}): {len(clips)} clips;" in capsys.readouterr().out
    assert command(drawn, "--quick", "--dataset", drawn.name) == bool(defects)


def test_classes(drawn: Path) -> None:
    """They are counted as training counts them: in CASME II fear and sadness take no part."""
    found = validate(drawn, quick=True)
    for classes, task in TASKS.items():
        labels = [task.label(clip.emotion, clip.dataset) for clip in found.usable]
        counts = [labels.count(index) for index in range(classes)]
        assert list(found.of_task(task)["classes"].values()) == counts
    if drawn.name == "casme2":
        assert found.of_task(TASKS[3])["clips"] < 30 - 4


def test_missing_folders(other: Path) -> None:
    """All clips in a folder are lost with it, and no others."""
    (*_, clip) = (clips := validate(other, quick=True).usable)
    shutil.rmtree(other / clip.folder)
    lost = [one.name for one in clips if one.folder == clip.folder]
    assert all(("no frames", LEFT_OUT) in kinds(other, name) for name in lost)
    kept = [one.name for one in clips if one.name not in lost]
    assert [one.name for one in validate(other, quick=True).usable] == kept


def test_missing_frames(other: Path) -> None:
    """By the rules of reading; nothing is decoded."""
    clip = validate(other, quick=True).usable[0]
    for number, path in image_files.index(other / clip.folder).items():
        path.write_bytes(b"not looked at")
        if number == clip.apex:
            path.unlink()
    assert kinds(other, clip.name) == {("missing frame", f"frame {clip.apex - 1} is used")}
    for number, path in image_files.index(other / clip.folder).items():
        if clip.onset < number < clip.offset:
            path.unlink()
    assert ("missing frame", LEFT_OUT) in kinds(other, clip.name)


def test_folders_without_a_row(other: Path) -> None:
    """Named where every folder should have a row: not among the recordings of CAS(ME)^3."""
    spare, reported = {
        "casme2": ("CASME2_RAW_selected/sub02/EP77_01", True),
        "smic": ("s02/s2_ne_09", True),
        "mmew": ("Micro_Expression/fear/S02-09-001", True),
        "casme3": ("spNo.2/z/color", False),
    }[other.name]
    path = other / spare
    path.mkdir(parents=True)
    assert kinds(other, path.name) == set()  # nothing is in it
    (path / "image1.jpg").write_bytes(b"not looked at")
    (path.parent / ".hidden").mkdir()
    (path.parent / ".hidden" / "1.jpg").write_bytes(b"")
    assert kinds(other, path.name) == ({("no row", "it is passed over")} if reported else set())
    assert "no row" not in {found for found, _ in kinds(other, ".hidden")}


@pytest.mark.parametrize("drawn", ["casme3"], indirect=True)
def test_cut_clips_without_a_row(other: Path) -> None:
    """The clips that were cut from the recordings of CAS(ME)^3 each have a row."""
    named = validate(other, quick=True).usable[0].name
    for name in (named, named.lower(), "spNo.1_a_999999"):
        folder = other / "Part_A_ME_clip/frame" / name
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_bytes(b"not looked at")
    found = [
        defect.clip for defect in validate(other, quick=True).defects if defect.kind == "no row"
    ]
    assert found == ["spNo.1_a_999999"]


@pytest.mark.parametrize("drawn", ["casme2"], indirect=True)
def test_a_row_with_defects_names_its_folder(other: Path) -> None:
    """A clip that a wrong row costs is not taken for one without a row."""
    book = FORMATS["casme2"].find_workbook(other)
    sheet = (table := openpyxl.load_workbook(book)).active
    sheet.cell(2, 4).value = "?"
    sheet.cell(3, 9).value = "boredom"
    table.save(book)
    found = validate(other, quick=True)
    assert (found.rows, "no row" in {defect.kind for defect in found.defects}) == (28, False)


@pytest.mark.parametrize("drawn", ["smic"], indirect=True)
def test_same_number_in_a_recording(other: Path) -> None:
    """It concerns the expression it is in, and neither another one nor the face at rest."""
    clips = {clip.name: clip for clip in validate(other, quick=True).usable}
    second = clips["s3_ne_02#2"]
    for number in (second.apex, second.offset + 1):
        (other / second.folder / f"z_{number:08d}.jpg").write_bytes(b"not looked at")
    repair = "the first in alphabetical order is used"
    assert kinds(other, "s3_ne_02#2") == {("same number", repair)}
    assert kinds(other, "s3_ne_02") == set()


def test_format_that_has_to_be_said(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A workbook of another format is refused, and so is the name of none."""
    assert command(drawn, "--dataset", "samm") == 1
    assert "copy the one of the SAMM release there" in capsys.readouterr().err
    with pytest.raises(ValueError, match="dataset: got 'dfme', expected one of samm, casme2"):
        validate(drawn, dataset="dfme")
