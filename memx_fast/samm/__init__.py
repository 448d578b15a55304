"""Micro-expression laboratory: from annotated high-speed video of faces to a judged classifier.

The data half reads the SAMM release and others, or the built-in data set drawn in the same format:
``formats`` (a module a data set: its workbook and folders), ``tables`` (workbooks), ``annotations``
(what is known of a clip), ``sampling`` (which frames of a clip), ``frames`` (image files),
``faces`` (where to crop), ``dataset`` (all of it in one call), ``cache`` (done once), ``synthetic``
(the built-in data) and ``miniatures`` (small ones, in the other formats). ``flow_images`` reads
folders of ready optical flow instead.

The learning half is ``labels`` (tasks), ``folds``, ``study`` (clips and folds, the same for every
method), ``sources`` (several data sets, or flow, for a study), ``augmentation``, ``flow`` (optical
flow and strain), ``methods`` (all of them, behind one interface), ``network`` and ``vgg``,
``training`` (of a network on one fold), ``metrics``, ``report``, ``composite`` (the figures of each
of several data sets), ``plots``, ``runs`` (what is kept of a run, and how it goes on), and
``checkpoints`` (weights and states on disk).

Asking a checkpoint about a clip is ``trained`` (the method of a checkpoint), ``films`` and
``containers`` (video files and folders, frame by frame), ``face_track`` and ``apex`` (where to look
in them), ``prediction``, ``worth`` (what an answer is worth) and ``strip`` (its picture).

``validation`` examines a data set. ``commands`` are the sub-commands of ``train-samm``.
"""

import importlib.util

_NEEDED = ("cv2", "matplotlib", "openpyxl", "safetensors", "sklearn", "tqdm")

_missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _missing:
    raise ImportError(
        f"memx_fast.samm needs {', '.join(_missing)}: install the extra, "
        "pip install --no-build-isolation 'memx_fast[samm]'"
    )
