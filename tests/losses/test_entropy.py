import keras
import numpy as np
import pytest

import reset_keras as rk
from gradient import gradient_of
from networks import LOSS, one_module_reset
from reset_keras.losses.entropy import entropies

EVEN = np.log(np.array([[0.5, 0.5]], "float32"))
SHARP = np.array([[100.0, 0.0], [0.0, 100.0]], "float32")


def values(*logits):
    return [float(value) for value in entropies([np.array(part, "float32") for part in logits])]


def test_one_policy_for_all_images_and_undecided():
    across, within = values(np.tile(EVEN, (4, 3, 1)))
    assert across == pytest.approx(3 * np.log(2), abs=1e-6)
    assert within == pytest.approx(3 * np.log(2), abs=1e-6)


def test_different_and_decided_routes():
    across, within = values(SHARP[:, None, :])
    assert across == pytest.approx(np.log(2), abs=1e-5)
    assert within == pytest.approx(0, abs=1e-5)


def test_worked_by_hand():
    # policies (3/4, 1/4) and (1/4, 3/4): their mean is even, each has an entropy of ln 4 - 3/4 ln 3
    logits = np.log(np.array([[[0.75, 0.25]], [[0.25, 0.75]]]))
    across, within = values(logits)
    assert across == pytest.approx(np.log(2), abs=1e-6)
    assert within == pytest.approx(np.log(4) - 0.75 * np.log(3), abs=1e-6)


def test_sums_over_iterations_and_modules():
    once = np.array(values(np.tile(EVEN, (2, 1, 1))))
    np.testing.assert_allclose(values(np.tile(EVEN, (2, 2, 1)), np.tile(EVEN, (2, 3, 1))), 5 * once, rtol=1e-6)


def test_the_loss_weights_both_sums():
    entropy = rk.Entropy(across=0.5, within=0.25)
    entropy.build()
    assert float(entropy(2.0, 3.0)) == pytest.approx(-0.5 * 2 + 0.25 * 3)
    entropy.across.assign(0.0)
    assert float(entropy(2.0, 3.0)) == pytest.approx(0.75)
    assert rk.Entropy.from_config(entropy.get_config()).get_config() == {"across": 0.5, "within": 0.25}


def test_descending_the_loss_parts_the_routes_and_decides_each():
    entropy = rk.Entropy(across=1.0, within=0.5)
    entropy.build()
    logits = np.array([[[0.3, 0.0]], [[-0.3, 0.0]]], "float32")
    gradient = gradient_of(lambda x: entropy(*entropies([x])), logits)
    assert gradient[0, 0, 0] < 0 < gradient[1, 0, 0]


def test_a_unit_that_a_controller_forbids_counts_for_nothing():
    logits = np.array([[[1.0, 2.0, -np.inf]], [[0.5, 0.0, -np.inf]]], "float32")
    assert values(logits) == pytest.approx(values(logits[..., :2]), abs=1e-6)
    gradient, expected = (gradient_of(lambda x: sum(entropies([x])), part) for part in (logits, logits[..., :2]))
    np.testing.assert_allclose(gradient[..., :2], expected, atol=1e-6)
    np.testing.assert_array_equal(gradient[..., 2], 0.0)


def test_the_gradient_stays_finite_where_a_policy_is_certain():
    gradient = gradient_of(lambda x: keras.ops.sum(entropies([x])[0]), SHARP[:1, None, :] * 10)
    assert np.isfinite(gradient).all()


def test_the_entropy_of_another_model_is_copied_and_a_models_own_is_taken_up_again():
    entropy, one, other = rk.Entropy(across=0.5), one_module_reset(), one_module_reset()
    one.compile("sgd", LOSS, entropy=entropy)
    other.compile("sgd", LOSS, entropy=entropy)
    one.compile("sgd", LOSS)
    entropy.across.assign(0.1)
    one.compile("sgd", LOSS, entropy=entropy)
    assert one.entropy is entropy is not other.entropy
    weights = [float(keras.ops.convert_to_numpy(model.entropy.across)) for model in (one, other)]
    assert weights == pytest.approx([0.1, 0.5])


def test_compiled_again_with_the_same_entropy_a_model_goes_on_with_its_weights():
    model, entropy = one_module_reset(), rk.Entropy(0.1, 0.2)
    for weight in (0.1, 0.5):
        model.compile("sgd", LOSS, entropy=entropy)
        assert float(keras.ops.convert_to_numpy(model.entropy.across)) == pytest.approx(weight)
        entropy.across.assign(0.5)
