import functools

import keras
import numpy as np
import pytest
from scipy.special import log_softmax

import reset_keras as rk
from networks import images_and_labels, randomize, small_reset
from reset_keras.inference import compute_fractions
from reset_keras.training import hold_compute, imitate_sequence, prune_routes, with_fixed_routes
from reset_keras.training.routes import pruning

IMAGES, _ = images_and_labels(40)
STAGES = (3, 2)
BLOCKS = ["stage0_block1", "stage0_block2", "stage1_block1"]
"""The units of a ReSet made of that ResNet, in order; all cost the same."""


def without(resnet, removed):
    """Log-probabilities, of a temperature of 4, of the ResNet of the blocks that are not removed."""
    names = [[f"stage{s}_block{i}" for i in range(count)] for s, count in enumerate(STAGES)]
    kept = [[name for name in of_stage if name not in removed] for of_stage in names]
    smaller = rk.ResNet([len(names) for names in kept], 4, (8, 8, 1), width=4)
    sources = {f"stage{s}_block{i}": name for s, names in enumerate(kept) for i, name in enumerate(names)}
    for layer in smaller.layers:
        layer.set_weights(resnet.get_layer(sources.get(layer.name, layer.name)).get_weights() if layer.weights else [])
    return log_softmax(np.array(smaller(IMAGES, training=False)) / 4, axis=-1)


def expected_routes(log_probabilities_without, num_skipped):
    """The sets of blocks that are left out for each image, `num_skipped` in all, one loop in the other."""
    whole = log_probabilities_without(frozenset())
    removed = [frozenset() for _ in IMAGES]
    while num_skipped:
        losses = {}
        for block in BLOCKS:
            for i, gone in enumerate(removed):
                if block not in gone:
                    outputs = log_probabilities_without(gone | {block})[i]
                    losses.setdefault(block, {})[i] = np.sum(np.exp(whole[i]) * (whole[i] - outputs))
        block = min(losses, key=lambda block: sum(losses[block].values()) / len(losses[block]))
        chosen = sorted(losses[block], key=losses[block].get)[:num_skipped]
        for i in chosen:
            removed[i] |= {block}
        num_skipped -= len(chosen)
    return removed


@pytest.fixture(scope="module")
def networks():
    keras.utils.set_random_seed(2)
    resnet = randomize(rk.ResNet(STAGES, 4, (8, 8, 1), width=4))
    reset = rk.resnet_to_reset(resnet, scorer="gumbel_st")
    imitate_sequence(reset, IMAGES, epochs=60)
    return resnet, reset, functools.cache(lambda removed: without(resnet, removed))


@pytest.mark.slow
@pytest.mark.parametrize("num_skipped", [25, 90])
def test_what_images_need_least_is_left_out_and_in_the_last_round_of_those_that_need_it_least(networks, num_skipped):
    resnet, reset, log_probabilities_without = networks
    whole = compute_fractions(reset, reset(IMAGES, training=False, return_routes=True).routes).mean()
    unit = 2 * 9 * 4 * 4 * 8 * 8 / rk.inference.macs(resnet)
    target = whole - unit * (num_skipped - 0.5) / len(IMAGES)
    routes = prune_routes(reset, IMAGES, target)
    skipped = np.concatenate(routes, axis=1) == [2, 2, 1]  # the zero units
    assert skipped.sum() == num_skipped
    assert all(
        ((choices == range(units)) | (choices == units)).all() for choices, units in zip(routes, (2, 1), strict=True)
    )
    expected = expected_routes(log_probabilities_without, num_skipped)
    expected = [[block in removed for block in BLOCKS] for removed in expected]
    np.testing.assert_array_equal(skipped, expected)
    assert len(np.unique(skipped, axis=0)) == 2


@pytest.mark.slow
def test_routes_that_differ_by_image_are_pruned_as_they_are():
    keras.utils.set_random_seed(3)
    model = randomize(small_reset("gumbel_st"))
    taken = model(IMAGES, training=False, return_routes=True).routes
    before = [np.argmax(route["scores"], axis=-1) for route in taken]
    units = sum((choices != 2).sum() for choices in before)
    costs = compute_fractions(model, taken)
    least = compute_fractions(model, [{"scores": np.eye(3)[[[2, 2]]]}] * 2)[0]
    routes = prune_routes(model, IMAGES, least + (costs.mean() - least) / 2)
    assert len(np.unique(np.concatenate(before, axis=1), axis=0)) > 1
    for choices, given in zip(routes, before, strict=True):
        assert ((choices == given) | (choices == 2)).all()
    assert sum((choices != 2).sum() for choices in routes) == units // 2


def test_an_iteration_that_may_not_be_skipped_keeps_its_unit():
    keras.utils.set_random_seed(3)
    mask = np.ones((2, 3), bool)
    mask[0, 2] = False
    model = randomize(rk.ReSetNet((2,), None, 4, (8, 8, 1), width=4, scorer="gumbel_st", allowed=mask))
    before = np.argmax(model(IMAGES, training=False, return_routes=True).routes[0]["scores"], axis=-1)
    least = compute_fractions(model, [{"scores": np.eye(3)[[[0, 2]]]}])[0]
    (routes,) = prune_routes(model, IMAGES, least + 1e-4)
    np.testing.assert_array_equal(routes, np.stack([before[:, 0], np.full(len(IMAGES), 2)], axis=1))
    for find in (prune_routes, hold_compute):
        with pytest.raises(ValueError, match=f"above {least:.3f}, the compute fraction where all is skipped that may"):
            find(model, IMAGES, least - 1e-3)


@pytest.mark.slow
def test_each_process_of_several_goes_through_all_images(monkeypatch):
    """As one of several devices it would be dealt a part of each batch, and the last may not divide."""
    seen = []
    model = with_fixed_routes(small_reset("gumbel_st"))
    monkeypatch.setattr(pruning, "with_fixed_routes", lambda _: seen.append(keras.distribution.distribution()) or model)
    distribution = keras.distribution.DataParallel()
    keras.distribution.set_distribution(distribution)
    try:
        prune_routes(model, IMAGES, 1.5)
        assert (seen, keras.distribution.distribution()) == ([None], distribution)
    finally:
        keras.distribution.set_distribution(None)


@pytest.mark.parametrize(
    ("model", "target", "message"),
    [
        (lambda: small_reset("gumbel_st", zero_unit=False), 0.9, "'stage0_reset' has none"),
        (lambda: small_reset("gumbel_st"), 0.1, r"above 0\.\d+, .*compute_target=0\.1"),
        (small_reset, 1.5, r"Received: \['SoftmaxScorer'\]"),
    ],
)
def test_routes_that_cannot_be_pruned(model, target, message):
    with pytest.raises(ValueError, match=message):
        prune_routes(model(), IMAGES, target)
