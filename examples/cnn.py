"""An ordinary Keras CNN with one routed stage: each image chooses the residual units that it goes through.

    python examples/cnn.py                           # 98.6 % of the test digits, 40 seconds on two CPU cores
    python examples/cnn.py --seed 4                  # 97.8 %; with the seeds 0 to 4 98.3 % on average
    python examples/cnn.py --log-dir runs/cnn/tensorboard
    tensorboard --logdir runs/cnn/tensorboard        # which units are used, while they are trained

The stage, `ReSet`, holds three units. Four times over, a small recurrent network looks at the image's features and adds
to them the output of one unit, or of none. Which one is learned with everything else, by plain `fit`; a reward for none
saves operations. The data are scikit-learn's digits, 1,437 images of 8 by 8 pixels to train on and 360 to test.

In the log `task_loss` is the cross-entropy; `loss`, which may be negative, has the terms that concern routes in it.
"""
# ruff: noqa: E402 - flags are read first

import argparse
import math
import pathlib
import sys


def flags() -> argparse.Namespace:
    """The command line's settings; a mistake ends the process with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training images (default 15)")
    parser.add_argument("--seed", type=int, default=0, help="start of all random numbers, from 0 on (default 0)")
    parser.add_argument("--log-dir", help="folder for TensorBoard (default: none is written)")
    settings = parser.parse_args()
    if settings.epochs < 1:
        parser.error(f"--epochs must be at least 1, received {settings.epochs}")
    if not 0 <= settings.seed < 2**32:
        parser.error(f"--seed must be from 0 to 4294967295, received {settings.seed}")
    return settings


if __name__ == "__main__":
    settings = flags()  # before the next imports, which take seconds

sys.path.append(str(pathlib.Path(__file__).parents[1]))  # a clone that is not installed

import keras
import numpy as np

import reset_keras as rk

BATCH_SIZE = 64
MODEL = pathlib.Path("runs/cnn/model.keras")


def network(image_shape: tuple[int, int, int], num_classes: int) -> rk.RoutedModel:
    """Two convolutions, the routed stage, a classifier."""
    inputs = keras.Input(image_shape)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x, routes = rk.ReSet(units=3, num_iterations=4, controller="rnn", scorer="gumbel_st", return_routes=True)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return rk.RoutedModel(inputs, keras.layers.Dense(num_classes)(x), routes=[routes])


def main(settings: argparse.Namespace) -> None:
    """Trains, looks at the routes, saves and loads."""
    keras.utils.set_random_seed(settings.seed)
    digits = rk.data.load_digits()
    images, labels = digits.normalize(digits.train.images), digits.train.labels
    test_images, test_labels = test = digits.normalize(digits.test.images), digits.test.labels

    model = network(digits.image_shape, digits.num_classes)
    rate = keras.optimizers.schedules.CosineDecay(0.003, settings.epochs * math.ceil(len(images) / BATCH_SIZE))
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        entropy=rk.Entropy(across=0.1),  # so that not all images take the same route
        skip_reward=rk.SkipReward(0.1),  # for each iteration without a unit
    )
    callbacks = []
    if settings.log_dir:
        options = {"thumbnails": digits.test.images, "hparams": {"epochs": settings.epochs}}
        callbacks.append(rk.callbacks.RouteMonitor(settings.log_dir, *test, **options))
    model.fit(images, labels, BATCH_SIZE, settings.epochs, validation_data=test, callbacks=callbacks, verbose=2)

    predictions = model.predict(test_images, verbose=0)  # only the classifier's outputs
    print(f"\nTest accuracy: {np.mean(predictions.argmax(axis=1) == test_labels):.1%}")
    (routes,) = model.predict_routes(test_images, verbose=0)  # one entry for each ReSet in the model
    print_routes(routes["scores"], test_labels)

    MODEL.parent.mkdir(parents=True, exist_ok=True)
    model.save(MODEL)
    loaded = keras.models.load_model(MODEL)  # no custom_objects
    difference = np.abs(loaded.predict(test_images, verbose=0) - predictions).max()
    print(f"\nSaved as {MODEL}; the loaded model's outputs differ by {difference:.1g} at most")


def print_routes(scores: np.ndarray, labels: np.ndarray) -> None:
    """Shows which units the classes use: a score is 1 for the unit that runs and 0 for the others.

    Args:
        scores: Array of shape `(images, iterations, units + 1)`; the last score is that of running no unit.
        labels: Integer array of shape `(images,)`.
    """
    print(f"Iterations that run no unit: {scores[..., -1].mean():.1%}\n")
    units = [f"unit {index + 1}" for index in range(scores.shape[-1] - 1)]
    print("Share of iterations", *(f"{name:>8}" for name in [*units, "none"]))
    for label in np.unique(labels):
        shares = scores[labels == label].mean(axis=(0, 1))
        print(f"Digit {label}            ", *(f"{share:8.0%}" for share in shares))


if __name__ == "__main__":
    main(settings)
