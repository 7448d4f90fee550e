"""A text classifier whose pool mixes dense and attention blocks: each text chooses the blocks that it goes through.

    python examples/text_classifier.py      # 82.9 % of the test texts, a minute on two CPU cores

The texts are on your disk: docstrings of numpy, scipy, scikit-learn and matplotlib, 48 words at a time, without the
libraries' own names. The task is to tell the library. Test texts are from other files than training texts.

Counted words and logistic regression, which are run as well, have 83.9 %, and naming one library has 25.6 %: what is to
be seen here is how any layers go into a pool, and which of them the texts use. Figures of numpy 2.4.6, scipy 1.17.1,
scikit-learn 1.9.1 and matplotlib 3.11.2.
"""
# ruff: noqa: E402 - flags are read first

import argparse
import ast
import itertools
import math
import pathlib
import re
import sys
from collections.abc import Iterable
from typing import Any


def flags() -> argparse.Namespace:
    """The command line's settings; a mistake ends the process with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=2, help="passes over the training texts (default 2)")
    parser.add_argument("--texts", type=int, default=2000, help="training texts of each library (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="start of all random numbers, from 0 on (default 0)")
    settings = parser.parse_args()
    if not 0 <= settings.seed < 2**32:
        parser.error(f"--seed must be from 0 to 4294967295, received {settings.seed}")
    if settings.epochs < 1 or settings.texts < 64:
        parser.error(f"--epochs must be at least 1, --texts 64; received {settings.epochs} and {settings.texts}")
    return settings


if __name__ == "__main__":
    settings = flags()  # before the next imports, which take seconds

sys.path.append(str(pathlib.Path(__file__).parents[1]))  # a clone that is not installed

import keras
import matplotlib
import numpy as np
import scipy
import sklearn
from keras import ops

import reset_keras as rk

LIBRARIES = {
    "numpy": np.__file__,
    "scipy": scipy.__file__,
    "scikit-learn": sklearn.__file__,
    "matplotlib": matplotlib.__file__,
}
NAMES = {"numpy", "np", "scipy", "scikit", "sklearn", "matplotlib", "mpl", "plt", "pyplot"}
NOT_THEIR_OWN = {"externals", "_lib", "tests"}
WORDS, FEWEST_WORDS = 48, 20
VOCABULARY, CHANNELS, BATCH_SIZE = 8000, 32, 32
FOLDER = pathlib.Path("runs/text_classifier")


def dense_block(name: str) -> keras.layers.Layer:
    """F(x) of `x + F(x)`, word by word. It has no offsets, so that padding, whose features are zeros, stays zeros."""
    layers = [
        keras.layers.LayerNormalization(center=False),
        keras.layers.Dense(2 * CHANNELS, "relu", use_bias=False),
        keras.layers.Dense(CHANNELS, use_bias=False),
    ]
    return keras.Sequential(layers, name=name)


@keras.saving.register_keras_serializable("reset_keras_examples")
class AttentionBlock(keras.layers.Layer):
    """F(x) of `x + F(x)`, from word to word. Words whose features are all zeros are padding, and stay zeros."""

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.norm = keras.layers.LayerNormalization(center=False)

    def build(self, input_shape: tuple) -> None:
        head_size = input_shape[-1] // self.num_heads
        self.attention = keras.layers.MultiHeadAttention(self.num_heads, head_size, use_bias=False)
        self.norm.build(input_shape)
        self.attention.build(input_shape, input_shape)

    def call(self, inputs: Any) -> Any:
        present = ops.any(ops.not_equal(inputs, 0), axis=-1)
        x = self.norm(inputs)
        x = self.attention(x, x, attention_mask=ops.expand_dims(present, axis=1))
        return x * ops.cast(ops.expand_dims(present, axis=-1), x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads}


def network() -> rk.RoutedModel:
    """Embeddings of words and of their positions, the routed blocks, the mean over the words, a classifier.

    A controller sees the mean over all 48 places; padding adds nothing to it.
    """
    ids = keras.Input((WORDS,), dtype="int32")
    present = ops.not_equal(ids, 0)
    positions = ops.cumsum(ops.cast(present, "int32"), axis=1)
    x = keras.layers.Embedding(VOCABULARY, CHANNELS)(ids) + keras.layers.Embedding(WORDS + 1, CHANNELS)(positions)
    x = keras.layers.Dropout(0.5)(x) * ops.expand_dims(ops.cast(present, "float32"), axis=-1)
    blocks = [dense_block("dense_1"), dense_block("dense_2")]
    blocks += [AttentionBlock(2, name="attention_1"), AttentionBlock(2, name="attention_2")]
    x, routes = rk.ReSet(blocks, 3, controller="rnn", scorer="gumbel_st", activation=None, return_routes=True)(x)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(x), mask=present)
    outputs = keras.layers.Dense(len(LIBRARIES))(keras.layers.Dropout(0.3)(x))
    return rk.RoutedModel(ids, outputs, routes=[routes])


def read_corpus(size: int) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """Training texts with their labels, and test texts with theirs, from a fifth of the files.

    Args:
        size: Integer, training texts of each library; a fifth as many are tested.
    """
    train, test = [], []
    for init_file in LIBRARIES.values():
        root = pathlib.Path(init_file).parent
        files = sorted(path for path in root.rglob("*.py") if not NOT_THEIR_OWN & {*path.relative_to(root).parts})
        np.random.default_rng(0).shuffle(files)
        held_out = len(files) // 5
        train.append(first_texts(files[held_out:], size))
        test.append(first_texts(files[:held_out], size // 5))
    known = set(itertools.chain(*train))
    test = [[text for text in part if text not in known] for part in test]
    return [*itertools.chain(*train)], labels_of(train), [*itertools.chain(*test)], labels_of(test)


def first_texts(files: Iterable[pathlib.Path], size: int) -> list[str]:
    """The first `size` different texts in files of Python code, which are read, not imported."""
    texts: dict[str, None] = {}
    for node in itertools.chain.from_iterable(ast.walk(ast.parse(path.read_text("utf-8"))) for path in files):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = (ast.get_docstring(node) or "").lower()
            words = [word for word in re.findall("[a-z]+", docstring) if word not in NAMES]
            parts = [words[start : start + WORDS] for start in range(0, len(words), WORDS)]
            texts.update({" ".join(part): None for part in parts if len(part) >= FEWEST_WORDS})
        if len(texts) >= size:
            break
    return list(texts)[:size]


def labels_of(texts: list[list[str]]) -> np.ndarray:
    """For each text, the number of the list that it is in."""
    return np.repeat(np.arange(len(texts)), [len(part) for part in texts])


def bag_of_words(texts: list[str], labels: np.ndarray, test_texts: list[str], test_labels: np.ndarray) -> float:
    """Test accuracy of a logistic regression of weighted counts of words, to compare with."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(TfidfVectorizer(min_df=2), LogisticRegression(max_iter=1000))
    return float(classifier.fit(texts, labels).score(test_texts, test_labels))


def main(settings: argparse.Namespace) -> None:
    """Trains, compares, looks at the routes, saves and loads."""
    keras.utils.set_random_seed(settings.seed)
    texts, labels, test_texts, test_labels = corpus = read_corpus(settings.texts)
    print(f"{len(texts)} texts to train on, {len(test_texts)} to test, the first of them: {test_texts[0]}")
    vectorization = keras.layers.TextVectorization(VOCABULARY, output_sequence_length=WORDS)
    vectorization.adapt(texts)
    ids, test_ids = np.array(vectorization(texts)), np.array(vectorization(test_texts))

    model = network()
    rate = keras.optimizers.schedules.CosineDecay(0.005, settings.epochs * math.ceil(len(ids) / BATCH_SIZE))
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        entropy=rk.Entropy(across=0.05),  # so that not all texts take the same route
    )
    model.fit(ids, labels, BATCH_SIZE, settings.epochs, validation_data=(test_ids, test_labels), verbose=2)

    predictions, (routes,) = model.predict_with_routes(test_ids, verbose=0)  # routes: one entry for each ReSet
    print(f"\nTest accuracy: {np.mean(predictions.argmax(axis=1) == test_labels):.1%}")
    print(f"Bag of words: {bag_of_words(*corpus):.1%}")
    print(f"Largest class: {np.bincount(test_labels).max() / len(test_labels):.1%}")
    print_routes(routes["scores"], test_labels, [unit.name for unit in model.routed_modules[0].pool.units])

    FOLDER.mkdir(parents=True, exist_ok=True)
    vocabulary = vectorization.get_vocabulary(include_special_tokens=False)
    (FOLDER / "vocabulary.txt").write_text("\n".join(vocabulary))
    model.save(FOLDER / "model.keras")
    loaded = keras.models.load_model(FOLDER / "model.keras")  # no custom_objects: AttentionBlock is registered
    difference = np.abs(loaded.predict(test_ids, verbose=0) - predictions).max()
    print(f"\nSaved in {FOLDER}; the loaded model's outputs differ by {difference:.1g} at most")


def print_routes(scores: np.ndarray, labels: np.ndarray, blocks: list[str]) -> None:
    """Shows which blocks each class uses, and when: a score is 1 for the block that runs and 0 for the others.

    Args:
        scores: Array of shape `(texts, iterations, blocks + 1)`; the last score is that of running no block.
        labels: Integer array of shape `(texts,)`.
        blocks: Their names.
    """
    print("\nShare of the texts that run a block", *(f"{name:>11}" for name in [*blocks, "none"]))
    for label, library in enumerate(LIBRARIES):
        for iteration, shares in enumerate(scores[labels == label].mean(axis=0), start=1):
            print(f"{library:19} {f'in iteration {iteration}':15}", *(f"{share:11.0%}" for share in shares))


if __name__ == "__main__":
    main(settings)
