"""What a prediction is worth: what a reader has to know before the percentages mean anything."""

from __future__ import annotations

from memx_fast.samm.checkpoints import Card
from memx_fast.samm.films import Film
from memx_fast.samm.methods import METHODS
from memx_fast.samm.prediction import Prediction
from memx_fast.samm.study import BUILT_IN

LONGEST = 0.5
"""A micro-expression lasts no longer, seconds (Yan et al. 2013; SAMM's longest: 0.505)."""

_USUAL_RATES = (100, 200)
"""Frames a second of the data sets of micro-expressions: SMIC, and SAMM and CASME II."""

_NOTEWORTHY_DRIFT = 0.1


def notes(card: Card, prediction: Prediction, film: Film) -> list[str]:
    """Sentences, the most important first."""
    return [
        *_about_training(card),
        "The method takes the clip for one micro-expression, from onset over apex to offset, and "
        "names one of its classes whatever it is shown, a face at rest or a smile on purpose too. "
        "The percentages are not calibrated.",
        *_about_time(prediction),
        *_about_apex(prediction),
        *_about_face(prediction),
        *_about_frames(prediction),
        *film.notes,
    ]


def _about_training(card: Card) -> list[str]:
    data = card.data or "data that the checkpoint does not name"
    found = [f"{METHODS[card.method].title}, trained on {data}."]
    if BUILT_IN in card.data:
        found.append("What is learnt from drawn faces says nothing about real ones.")
    if card.test:
        test = card.test
        found.append(
            f"On {test['clips']:.0f} test clips of other people, {100 * test['accuracy']:.1f} % of "
            f"its answers were right (always the class most frequent in training: "
            f"{100 * test['majority_accuracy']:.1f} %), and {100 * test['uar']:.1f} % in the mean "
            f"over classes (guessing: {100 / len(card.classes):.1f} %)."
        )
    if card.settings.get("kind") == "paper-like":
        found.append("These figures are inflated: the epoch was chosen on the test clips.")
    return found


def _about_time(prediction: Prediction) -> list[str]:
    rate, seconds = prediction.rate, prediction.seconds
    if rate is None or seconds is None:
        return []
    found = []
    if rate < _USUAL_RATES[0]:
        found.append(
            f"{rate:.4g} frames a second are few: the data of the field has {_USUAL_RATES[0]} to "
            f"{_USUAL_RATES[1]}, and of a micro-expression at most {rate * LONGEST:.0f} of these "
            "frames are seen. (If this is slow motion, give its true rate with --fps.)"
        )
    if seconds > LONGEST:
        given = {"onset", "offset"} <= set(prediction.given)
        remedy = "" if given else ": give its onset and offset"
        found.append(
            f"The clip lasts {seconds:.3g} seconds, a micro-expression at most {LONGEST:g}{remedy}."
        )
    return found


def _about_apex(prediction: Prediction) -> list[str]:
    if not prediction.strains:
        return []
    if not any(prediction.strains.values()):
        return ["Nothing moves in this clip; the apex means nothing."]
    return [
        f"The apex, frame {prediction.apex}, is where the face differs most from the onset (strain "
        "of the optical flow); a blink, or the head turning, counts as well."
    ]


def _about_face(prediction: Prediction) -> list[str]:
    track = prediction.track
    if track is None:
        return []
    found = []
    if track.others:
        faces = "face is" if track.others == 1 else "faces are"
        found.append(
            f"{track.others} more {faces} in the clip; the largest was taken. Another one can be "
            "given with --face-box."
        )
    if track.drift > _NOTEWORTHY_DRIFT:
        found.append(
            f"The face moves by up to {100 * track.drift:.0f} % of its size, and the box stands "
            "still: the method sees the head move."
        )
    return found


def _about_frames(prediction: Prediction) -> list[str]:
    repeated = len(prediction.chosen) - len(set(prediction.chosen))
    if not repeated:
        return []
    return [
        f"The clip is too short for {len(prediction.chosen)} frames: {repeated} of them are shown "
        "again."
    ]
