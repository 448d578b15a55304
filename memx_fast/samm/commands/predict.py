"""``train-samm predict``: what a checkpoint says of one clip, and what that is worth."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import cv2

from memx_fast.samm import strip, worth
from memx_fast.samm.checkpoints import Card, card_path
from memx_fast.samm.commands import outputs, shared
from memx_fast.samm.films import Film, open_film
from memx_fast.samm.prediction import Prediction, Wanted, predict
from memx_fast.samm.runs import as_text, write_text
from memx_fast.samm.trained import restore

_BAR = 30  # letters of a whole bar


def run(options: argparse.Namespace) -> int:
    """Checkpoint, clip, answer. Returns the exit status."""
    _hush_decoders()
    screen = options.json is not None and str(options.json) == "-"
    written = {"picture": options.picture, "json": None if screen else options.json}
    inputs = [options.checkpoint, card_path(options.checkpoint), options.video]
    outputs.refuse_clashes(written, inputs, overwrite=options.overwrite)
    if options.picture is not None and options.picture.suffix.lower() != ".png":
        raise ValueError(f"picture: got {options.picture}, expected NAME.png: it is written as PNG")
    if options.fps is not None and not 0 < options.fps < float("inf"):
        raise ValueError(f"fps: got {options.fps}, expected frames a second")
    paths = {} if options.weights is None else {"weights": str(options.weights)}
    method, card = restore(options.checkpoint, shared.machine(options), paths=paths)
    film = open_film(options.video)

    wanted = Wanted(
        options.onset, options.apex, options.offset, options.face_box, options.crop, options.fps
    )
    prediction = predict(method, card, film, wanted, progress=True)
    notes = worth.notes(card, prediction, film)

    facts = {
        "video": str(options.video),
        "checkpoint": str(options.checkpoint),
        "method": card.method,
        "trained_on": card.data,
        "test": card.test,
        **prediction.as_json(),
        "notes": notes,
        "versions": shared.versions(),
    }
    if options.picture is not None:
        strip.draw(prediction, card, film.path.name, notes, options.picture)
    if written["json"] is not None:
        write_text(written["json"], as_text(facts))
    if screen:
        sys.stdout.write(as_text(facts))
        return 0
    print(_text(prediction, card, film, notes))
    for path in written.values():
        if path is not None:
            print(f"written: {path}")
    return 0


def _text(prediction: Prediction, card: Card, film: Film, notes: list[str]) -> str:
    """The answer for the screen."""
    rate = "" if prediction.rate is None else f", {prediction.rate:.4g} frames a second"
    lines = [
        f"{film.path.name}: onset {prediction.onset}, apex {prediction.apex}, "
        f"offset {prediction.offset}{rate}",
        _face(prediction),
        "",
    ]
    width = max(map(len, card.classes))
    for name, share in prediction.probabilities.items():
        mark = "#" * round(_BAR * share)
        lines.append(f"  {name:{width}}  {100 * share:5.1f} %  {mark}".rstrip())
    return "\n".join([*lines, "", "what this is worth:", *(f"- {note}" for note in notes)])


def _face(prediction: Prediction) -> str:
    """Where the face is."""
    box, track = prediction.box, prediction.track
    if box is None:
        return "whole frames"
    place = f"face {box.left},{box.top},{box.side},{box.side} (left, top, width, height)"
    return place if track is None else f"{place}, seen in {track.seen} of {track.looks} frames"


def _hush_decoders() -> None:
    """What FFmpeg and OpenCV say of a damaged file goes by; films say it in one sentence."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="train-samm predict",
        description=(
            "Ask a checkpoint, of whatever method, what it sees in one clip: a probability for "
            "each class, and what the answer is worth. The clip is a video, whose frames are "
            "counted from 0, or a folder of image files, numbered by the last digits of their "
            "names. Frames are read one by one: a clip may be of any length."
        ),
        epilog=(
            "A clip without a face, or with one that vanishes (it is not found in two frames "
            "running), is refused, and the message names the frames. So are a file that is cut "
            "short before the offset, a codec that is unknown and files that cannot be read."
        ),
        formatter_class=shared.Help,
    )
    group = parser.add_argument_group("what is asked")
    group.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="what was learnt, such as runs/NAME/fold-1.safetensors; its card lies beside it",
    )
    group.add_argument(
        "--video", type=Path, required=True, metavar="PATH", help="video file or folder of frames"
    )
    _add_clip_options(parser.add_argument_group("clip"))
    results = parser.add_argument_group("results")
    results.add_argument(
        "--json", type=Path, metavar="FILE", help="the answer as JSON; - writes it to the screen"
    )
    results.add_argument(
        "--picture", type=Path, metavar="FILE", help="PNG of frames, face, movement and answer"
    )
    outputs.add_overwrite(results)
    running = parser.add_argument_group("running")
    running.add_argument("--device", default="cpu", help="where to compute")
    running.add_argument("--backend", default="auto", help="engine of the ConvLSTM")
    running.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="elrcn: where the weights of VGG-16 are, if not where they were in training",
    )
    parser.set_defaults(cache_dir=None)
    return parser


def _add_clip_options(group: Any) -> None:
    for name, text in (
        ("onset", "first frame of the expression; by default that of the clip"),
        (
            "apex",
            "strongest frame; by default that between onset and offset whose optical flow from the "
            "onset (TV-L1, on the face) has the largest mean strain",
        ),
        ("offset", "last frame of the expression; by default that of the clip"),
    ):
        group.add_argument(f"--{name}", type=int, metavar="NUMBER", help=text)
    group.add_argument(
        "--face-box",
        type=_rectangle,
        metavar="X,Y,W,H",
        help="where the face is, pixels; the smallest square around it is used. By default the "
        "largest face of those seen throughout",
    )
    group.add_argument(
        "--crop",
        action=argparse.BooleanOptionalAction,
        help="cut the face out, or resize the whole frame; by default as in training",
    )
    group.add_argument(
        "--fps",
        type=float,
        metavar="RATE",
        help="frames a second at recording, if the file says something else or nothing",
    )


def _rectangle(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = map(int, text.split(","))
    except ValueError:
        message = f"got {text!r}, expected left, top, width and height in pixels: 40,20,200,200"
        raise argparse.ArgumentTypeError(message) from None
    return left, top, width, height
