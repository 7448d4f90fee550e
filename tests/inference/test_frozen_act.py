"""Frozen ACT and SACT: what the module returns, and what is not computed."""

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from frozen import IMAGES as INPUTS
from frozen import ON_TENSORFLOW, assert_equal_at_every_batch_size, expected_of, outputs_of
from halting_networks import halting_network, in_order, numpy_of
from networks import (
    ONE_BACKEND,
    randomize,
    user_model,
)
from reset_keras.inference.frozen import active_positions

IMAGES = np.random.default_rng(0).normal(size=(12, 5, 5, 6)).astype("float32")


@pytest.mark.parametrize(
    ("halting", "scorer"),
    [
        pytest.param("act", None, marks=ONE_BACKEND),
        pytest.param("sact", None, marks=pytest.mark.slow),
        ("act", "gumbel_st"),
        pytest.param("sact", "softmax", marks=ONE_BACKEND),
    ],
)
def test_frozen_it_computes_the_same(halting, scorer):
    """In order, by chosen units and by all units; only in order may positions be left out."""
    model = halting_network(halting, **({} if scorer is None else {"scorer": scorer}))
    frozen = rk.inference.freeze(model)
    assert_equal_at_every_batch_size(frozen, model)
    if ON_TENSORFLOW and scorer is None:
        assert_equal_at_every_batch_size(rk.inference.freeze(model, "dense"), model)
    expected = model(INPUTS[:7], training=False, return_routes=True).routes[0]
    returned = frozen.graph(INPUTS[:7])["routes"]["module_0"]
    assert set(returned) == set(expected) == {"active", "logits", "ponder", "scores"}
    for name, part in expected.items():
        np.testing.assert_allclose(numpy_of(returned[name]), part, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="other backends compute all positions")
@pytest.mark.parametrize("pays", [True, False])
def test_frozen_sact_computes_only_the_active_positions_where_that_pays(pays, monkeypatch):
    import tensorflow as tf

    from reset_keras.inference.frozen import frozen_reset

    model, runs = halting_network("sact"), []
    for kernel in model.routed_modules[0].halting.convolutions:
        kernel.assign(
            np.random.default_rng(0).normal(size=kernel.shape)
        )  # or positions of an image would halt together

    def noted(x, weights, dtype, active):
        tf.py_function(lambda share: runs.append(float(share)), [tf.reduce_mean(active)], [])
        return active_positions.residual_at(x, weights, dtype, active)

    monkeypatch.setattr(frozen_reset, "pays", lambda active, channels: tf.constant(pays))
    monkeypatch.setattr(frozen_reset, "residual_at", noted)
    assert_equal_at_every_batch_size(rk.inference.freeze(model), model)
    assert bool(runs) is pays
    assert not pays or any(0.1 < share < 0.9 for share in runs)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="other backends compute all positions")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_unit_at_some_positions_is_that_of_numpy_there(dtype):
    rng = np.random.default_rng(0)
    active = (rng.random((*IMAGES.shape[:3], 1)) < 0.2).astype("float32")
    weights = [rng.normal(0, 0.3, shape).astype("float32") for shape in ((3, 3, 6, 6), (6,)) * 2]
    kernel1, bias1, kernel2, bias2 = weights
    unit = reference.conv3x3(reference.relu(reference.conv3x3(IMAGES, kernel1) + bias1), kernel2) + bias2
    found = numpy_of(active_positions.residual_at(keras.ops.cast(IMAGES, dtype), weights, dtype, active))
    np.testing.assert_allclose(found, unit * active, atol=1e-4 if dtype == "float32" else 0.15)
    assert np.abs(unit).max() > 10


@pytest.mark.skipif(not ON_TENSORFLOW, reason="other backends compute all positions")
def test_few_positions_of_many_channels_pay():
    few, many = (np.where(np.arange(100) < count, 1.0, 0.0).reshape(1, 10, 10, 1) for count in (12, 45))
    limits = [[bool(active_positions.pays(active, channels)) for channels in (16, 32, 64)] for active in (few, many)]
    assert limits == [[False, True, True], [False, False, False]]


@pytest.mark.skipif(not ON_TENSORFLOW, reason="in order, other backends compute a unit for all images")
@pytest.mark.parametrize("halting", ["act", "sact"])
def test_frozen_it_computes_no_unit_that_no_image_runs(halting):
    model = user_model(**in_order(2), halting=halting)
    randomize(model)
    module = model.routed_modules[0]
    module.halting.biases[0].assign([50.0])
    expected = expected_of(model)
    module.pool.kernel1.assign(np.where(np.arange(8) >= 4, np.nan, np.array(module.pool.kernel1)))
    frozen = rk.inference.freeze(model)
    for size in (1, 7):
        np.testing.assert_allclose(outputs_of(frozen, INPUTS[:size]), expected[:size], atol=1e-4)
