"""Routes as TensorBoard's Embedding Projector shows them."""

import math
import pathlib
from collections.abc import Sequence

import numpy as np

LARGEST_SPRITE = 8192
"""Pixels on a side that browsers take."""


def write_projector(
    log_dir: pathlib.Path,
    vectors: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    thumbnails: np.ndarray | None = None,
) -> None:
    """Writes embeddings, their labels and their thumbnails into a folder that has an events file.

    Args:
        log_dir: The folder.
        vectors: Array of shape `(images, features)`.
        labels: Integer array of shape `(images,)`, or `None`. Default `None`.
        class_names: Names of the classes. Default: their numbers.
        thumbnails: Array of shape `(images, height, width, channels)`, uint8, with 1, 3 or 4 channels, or `None`.
            Default `None`.
    """
    from tensorboard.plugins import projector

    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "routes"
    embedding.tensor_path = "routes.tsv"
    np.savetxt(log_dir / "routes.tsv", vectors, delimiter="\t", fmt="%.5g")
    if labels is not None:
        names = [str(class_names[label]) if len(class_names) else str(label) for label in labels]
        rows = ["class\timage", *(f"{name}\t{index}" for index, name in enumerate(names))]
        (log_dir / "labels.tsv").write_text("\n".join(rows) + "\n")
        embedding.metadata_path = "labels.tsv"
    if thumbnails is not None:
        thumbnails = _made_to_fit(thumbnails)
        _write_sprite(log_dir / "thumbnails.png", thumbnails)
        embedding.sprite.image_path = "thumbnails.png"
        embedding.sprite.single_image_dim.extend([thumbnails.shape[2], thumbnails.shape[1]])
    projector.visualize_embeddings(str(log_dir), config)


def _made_to_fit(thumbnails: np.ndarray) -> np.ndarray:
    """Of each thumbnail every second pixel, or every third, ..., where all would be too many for one picture."""
    largest = max(1, LARGEST_SPRITE // _thumbnails_in_a_row(thumbnails))
    every = math.ceil(max(thumbnails.shape[1:3]) / largest)
    return thumbnails[:, ::every, ::every]


def _thumbnails_in_a_row(thumbnails: np.ndarray) -> int:
    return math.isqrt(len(thumbnails) - 1) + 1


def _write_sprite(path: pathlib.Path, thumbnails: np.ndarray) -> None:
    """One picture with all thumbnails, row by row, as many in a row as there are rows."""
    import tensorflow as tf

    count, height, width, channels = thumbnails.shape
    side = _thumbnails_in_a_row(thumbnails)
    cells = np.zeros((side * side, height, width, channels), np.uint8)
    cells[:count] = thumbnails
    sprite = cells.reshape(side, side, height, width, channels).swapaxes(1, 2).reshape(side * height, side * width, -1)
    path.write_bytes(tf.io.encode_png(sprite).numpy())
