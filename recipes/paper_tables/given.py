"""Trained networks that a setting gives to the rows that start from them, instead of training them."""

from __future__ import annotations

import json
import pathlib
import zipfile

from experiment.config import fail
from paper_tables.paper import EXPERIMENTS, Row
from paper_tables.settings import GIVEN, ROOT, ReproduceConfig

KINDS = {"resnet": "a ResNet", "softmax": "a softmax-routed ReSet"}
"""What must be given, by the name of the setting."""


def check_given(config: ReproduceConfig, rows: list[Row]) -> None:
    """Ends the process where a given network is not there, is of another kind, or is not needed."""
    for network, setting in GIVEN.items():
        given = getattr(config, setting)
        if given is None:
            continue
        if not any(EXPERIMENTS[row.experiment].pretrained == network for row in rows):
            fail(
                f"--{setting} is for rows that start from {KINDS[setting]}; none of these does; received {given}: "
                "leave it out"
            )
        kind = kind_of(_file_of(setting, given))
        if kind != KINDS[setting]:
            fail(f"--{setting} must be {KINDS[setting]}; received {given}, {kind}")


def kind_of(path: pathlib.Path) -> str:
    """What a `.keras` file holds, by its settings: for that TensorFlow need not be loaded."""
    try:
        with zipfile.ZipFile(path) as file:
            saved = json.loads(file.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError):
        return "no .keras file"
    if saved["class_name"] != "ReSetNet":
        return f"a {saved['class_name']}"
    scorer = saved["config"]["scorer"]
    name = scorer if isinstance(scorer, str) else scorer["class_name"]
    return KINDS["softmax"] if name in ("softmax", "SoftmaxScorer") else f"a ReSet of another scorer, {name}"


def _file_of(setting: str, given: str) -> pathlib.Path:
    presets = {file.stem: file for file in sorted((ROOT / "reset_keras" / "presets").glob("*.keras"))}
    path = presets.get(given, pathlib.Path(given))
    if not path.is_file():
        fail(f"--{setting}: {given} is no file, and none of the trained networks {', '.join(presets)}")
    return path
