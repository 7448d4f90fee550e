"""Files of routed models, and what could not be loaded from one."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import (
    EAGERLY_ON_TENSORFLOW,
    LOSS,
    images_and_labels,
    one_module_reset,
    randomize,
    slow_on_jax,
    small_reset,
    user_model,
)

IMAGES, LABELS = images_and_labels()


def test_keras_file_round_trip_with_all_that_was_compiled(tmp_path):
    model = user_model(scorer="gumbel_st")
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        LOSS,
        metrics=["accuracy"],
        entropy=rk.Entropy(0.1),
        skip_reward=rk.SkipReward(0.2, "reinforce"),
        gradient_clip_norm=0.5,
        **EAGERLY_ON_TENSORFLOW,
    )
    model.train_on_batch(IMAGES, LABELS)
    model.entropy.across.assign(0.05)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES, training=False), model(IMAGES, training=False))
    assert float(loaded.entropy.across) == pytest.approx(0.05)
    np.testing.assert_array_equal(loaded.skip_reward.baseline, model.skip_reward.baseline)
    assert loaded.gradient_clip_norm == 0.5
    for step in (model, loaded):
        step.train_on_batch(IMAGES, LABELS)
    np.testing.assert_allclose(loaded(IMAGES, training=False), model(IMAGES, training=False), atol=1e-5)


class OfMyOwn(rk.GumbelSTScorer):
    """Known only by `custom_objects`."""


def test_a_config_may_hold_custom_objects():
    config = one_module_reset(OfMyOwn()).get_config()
    (module,) = rk.ReSetNet.from_config(config, custom_objects={"OfMyOwn": OfMyOwn}).routed_modules
    assert type(module.scorer) is OfMyOwn


@keras.saving.register_keras_serializable("tests")
class Scaled(rk.RoutedModel):
    """A model with a variable that is no layer's."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.scale = self.add_weight(name="scale", initializer="ones")


@pytest.mark.parametrize("options", [{}, {"entropy": rk.Entropy(0.1)}])
def test_variables_of_a_subclass_are_in_its_files(tmp_path, options):
    model, other = (Scaled(network.input, network.output) for network in (user_model(), user_model()))
    model.compile("sgd", LOSS, **options)
    model.scale.assign(7.0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    other.load_weights(tmp_path / "model.keras")
    for read in (loaded, other):
        assert float(read.scale) == 7.0
        np.testing.assert_array_equal(read(IMAGES, training=False), model(IMAGES, training=False))


def test_weights_file_round_trip(tmp_path):
    model = user_model()
    model.save_weights(tmp_path / "model.weights.h5")
    other = user_model()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other(IMAGES, training=False), model(IMAGES, training=False))


@slow_on_jax
@pytest.mark.parametrize("controller", ["rnn", "cnn", "gate", "policy"])
def test_a_plain_model_is_quantized_but_for_its_controllers(tmp_path, controller):
    inputs = keras.Input((8, 8, 3))
    context = [keras.layers.GlobalAveragePooling2D()(inputs)] if controller == "policy" else []
    x = rk.ReSet(2, 1, controller=controller, scorer="gumbel_st")(inputs, *context)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    images = keras.random.normal((3, 8, 8, 3))
    with pytest.warns(UserWarning, match="controllers of a ReSet are not quantized"):
        model.quantize("int8")
    assert model.layers[-1].kernel.dtype == "int8"
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)


def test_quantizing_is_refused():
    with pytest.raises(NotImplementedError, match="cannot be quantized: its file could not be loaded"):
        small_reset().quantize("int8")


def two_modules(units=2, **shared):
    x = inputs = keras.Input((8, 8, 4))
    all_routes = []
    for name in ("one", "two"):
        x, routes = rk.ReSet(units, 1, return_routes=True, name=name, **shared)(x)
        all_routes.append(routes)
    return rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=all_routes)


@pytest.mark.parametrize(
    ("part", "make"),
    [
        ("controller", lambda: rk.RNNController(3, name="mine")),
        ("scorer", lambda: rk.SoftmaxScorer(name="mine")),
        ("units", lambda: rk.ResidualPool(2, name="mine")),
        ("units", lambda: [keras.layers.Dense(4, name="mine"), keras.layers.Dense(4)]),
    ],
)
def test_two_modules_that_share_a_part_are_refused(part, make):
    with pytest.raises(ValueError, match=r"'one' and 'two' share 'mine', one .* Give each module another one"):
        two_modules(**{part: make()})


def test_modules_may_share_a_controller_without_weights():
    assert len(two_modules(controller=rk.FixedController(3, [1])).routed_modules) == 2


def test_a_module_that_is_called_twice_can_be_saved(tmp_path):
    inputs = keras.Input((8, 8, 4))
    module = rk.ReSet(2, 1, return_routes=True)
    x, first = module(inputs)
    x, second = module(x)
    model = rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[first, second])
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images, training=False), model(images, training=False))


def test_weights_of_another_training_leave_the_settings_of_this_one(tmp_path):
    """A schedule may have moved them there; what was learned is taken along."""

    def compiled(model, across, **reward):
        reward = rk.SkipReward(target=1.0, **reward)
        model.compile("sgd", LOSS, entropy=rk.Entropy(across), skip_reward=reward)
        return model

    first = compiled(one_module_reset("gumbel_st"), 0.1, reward=0.3)
    first.entropy.across.assign(0.0)
    first.skip_reward.price.assign(0.7)
    first.save_weights(tmp_path / "of.weights.h5")
    same, other = (compiled(one_module_reset("gumbel_st"), across, reward=0.3) for across in (0.1, 0.5))
    for model, across in ((same, 0.0), (other, 0.5)):
        model.load_weights(tmp_path / "of.weights.h5")
        assert float(model.entropy.across) == across
        assert float(model.skip_reward.price) == pytest.approx(0.7)


@pytest.mark.parametrize("controller", ["rnn", "cnn", "gate", "policy"])
def test_weights_are_kept_by_their_paths(controller):
    model = randomize(small_reset("hard", controller=controller))
    model.compile("sgd", LOSS)
    values = model.get_state_tree(value_format="numpy_array")
    other = small_reset("hard", controller=controller)
    other.compile("sgd", LOSS)
    other.set_state_tree(values)
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
