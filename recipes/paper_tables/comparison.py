"""Networks of rows compared image by image: with their baselines, and with static networks of their cost."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from scipy.stats import binomtest

from paper_tables.controls import SHORTER, Workdirs, control_of, described, result_of
from paper_tables.paper import ROWS, Row, experiment_of
from reset_keras.array_files import read_arrays


def mcnemar(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of two classifiers on the same images.

    Args:
        ours: Classes that one predicts, shape `(images,)`.
        theirs: Classes that the other predicts.
        labels: The true classes.

    Returns:
        The number of images that only the first gets right, the number that only the second gets right, and the
        two-sided p-value of both being equally likely.
    """
    right, other_right = ours == labels, theirs == labels
    better, worse = int(np.sum(right & ~other_right)), int(np.sum(~right & other_right))
    return better, worse, float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def against_baseline(row: Row, workdirs: Workdirs) -> dict[str, Any]:
    """McNemar's test against the row's baseline; empty for the baseline, and where that has not ended."""
    (baseline,) = (other for other in ROWS if (other.table, other.number) == (row.table, row.baseline))
    experiment, stage = baseline.experiment, baseline.stage
    if experiment_of(row.experiment).pretrained == (experiment, stage):
        experiment, stage = row.experiment, "pretrain"  # the same network, also where it was given
    found = None if baseline is row else _test(workdirs, (row.experiment, row.stage), (experiment, stage))
    return dict(zip(("better", "worse", "p_value"), found or ("", "", ""), strict=True))


def against_static(row: Row, workdirs: Workdirs) -> dict[str, Any]:
    """What the static control of a row reaches, at which cost, and McNemar's test; empty where there is none."""
    control = control_of(row, workdirs)
    found = None if control is None else _test(workdirs, (row.experiment, row.stage), control)
    if control is None or found is None:
        return {}
    better, worse, p_value = found
    ours, result = result_of(workdirs[row.experiment], row.stage), result_of(workdirs[control[0]], control[1])
    # A shorter ResNet of the systems is measured beside the whole one; any other beside a ResNet of its shape.
    compute = f"{result['compute_fraction']:.3f}" if control[0] == SHORTER else _over_resnet_of(ours, result)
    return {
        "static": described(control),
        "static_accuracy": f"{100 * result['accuracy']['test']:.2f}",
        "static_compute": compute,
        "static_better": better,
        "static_worse": worse,
        "static_p": p_value,
    }


def _over_resnet_of(ours: dict[str, Any], static: dict[str, Any]) -> str:
    """A static network's operations over those of our network's ResNet.

    Empty where a run is of a version that did not note MACs.
    """
    if "macs" not in ours or "macs" not in static:
        return ""
    return f"{static['macs'] / ours['macs'] * ours['compute_fraction']:.3f}"


def _test(workdirs: Workdirs, ours: tuple[str, str], theirs: tuple[str, str]) -> tuple[int, int, str] | None:
    """McNemar's test of two stages' networks; `None` where one of them has not ended."""
    first, second = (_predictions(workdirs.get(experiment), stage) for experiment, stage in (ours, theirs))
    if first is None or second is None:
        return None
    better, worse, p_value = mcnemar(first["test"], second["test"], first["test_labels"])
    return better, worse, f"{p_value:.2g}"


def _predictions(workdir: pathlib.Path | None, stage: str) -> dict[str, np.ndarray] | None:
    """The classes that a stage's network predicts; `None` where the stage has not ended."""
    paths = [] if workdir is None else list(workdir.glob(f"stages/*-{stage}/predictions.npz"))
    return read_arrays(paths[0]) if paths else None
