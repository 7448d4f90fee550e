import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, one_module_reset, randomize, slow_on_jax, small_reset, small_resnet, user_model
from reset_keras.models import static_twin, with_dtype_policy
from reset_keras.training import train_everything, with_fixed_routes

IMAGES, LABELS = images_and_labels(64)


@pytest.fixture(scope="module")
def resnet():
    return randomize(small_resnet())


@slow_on_jax
@pytest.mark.parametrize("scorer", ["softmax", "gumbel_softmax", "gumbel_st", "top_k", "hard"])
def test_on_the_sequential_route_a_reset_computes_its_resnets_logits(resnet, scorer):
    reset = rk.resnet_to_reset(resnet, rk.FixedController(3, [0, 1]), scorer)
    expected = resnet(IMAGES, training=False)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(reset(IMAGES, training=False), expected, atol=1e-4)


def test_on_another_route_it_does_not(resnet):
    reset = rk.resnet_to_reset(resnet, rk.FixedController(3, [1, 0]))
    assert np.abs(reset(IMAGES, training=False) - resnet(IMAGES, training=False)).max() > 1e-2


def test_a_stage_of_one_block_has_no_module():
    resnet = rk.ResNet((1, 3, 1), 4, (8, 8, 1), width=4)
    reset = rk.resnet_to_reset(resnet, rk.FixedController(3, [0, 1]))
    assert reset.units == reset.num_iterations == (0, 2, 0)
    assert len(reset.routed_modules) == 1
    np.testing.assert_allclose(reset(IMAGES, training=False), resnet(IMAGES, training=False), atol=1e-4)
    assert static_twin(reset).stage_blocks == (1, 3, 1)
    clone = rk.ReSetNet.from_config(reset.get_config())
    assert clone.units == (0, 2, 0)


def test_some_stage_needs_blocks_for_its_pool():
    with pytest.raises(ValueError, match="at least two blocks in a stage"):
        rk.resnet_to_reset(rk.ResNet((1, 1), input_shape=(8, 8, 1)))


@pytest.mark.parametrize(("units", "iterations"), [((0, 0), None), ((2, 0), (2, 1)), ((2, 1), (2, 0)), ((2, 2), (2,))])
def test_units_and_iterations_must_fit(units, iterations):
    with pytest.raises(ValueError, match="0 in the same places"):
        rk.ReSetNet(units, iterations, input_shape=(8, 8, 1))


def test_the_static_twin_has_the_depth_of_a_route():
    twin = static_twin(small_reset())
    assert twin.stage_blocks == (3, 3)
    assert twin.backbone == small_reset().backbone


@pytest.mark.parametrize("scorer", ["gumbel_st", rk.TopKScorer(2, temperature=0.5)])
def test_with_scorer_keeps_the_weights_and_changes_the_scores(scorer):
    soft = one_module_reset()
    hard = rk.with_scorer(soft, scorer)
    soft_routes, hard_routes = (
        keras.tree.map_structure(np.array, model(IMAGES, training=False, return_routes=True).routes[0])
        for model in (soft, hard)
    )
    np.testing.assert_allclose(hard_routes["logits"][:, 0], soft_routes["logits"][:, 0], atol=1e-6)
    assert (np.count_nonzero(hard_routes["scores"], axis=-1) == getattr(scorer, "k", 1)).all()
    assert (soft_routes["scores"] > 0).all()
    back = rk.with_scorer(hard, "softmax")
    np.testing.assert_allclose(back(IMAGES, training=False), soft(IMAGES, training=False), atol=1e-6)


def test_with_scorer_on_a_users_model():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x, routes = rk.ReSet([keras.layers.Conv2D(4, 3, padding="same")], 2, return_routes=True)(x)
    model = rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), routes=[routes])
    hard = rk.with_scorer(model, "hard")
    assert set(np.unique(hard.predict_routes(IMAGES, verbose=0)[0]["scores"])) <= {0.0, 1.0}
    kernel, bias = (np.array(weight) for weight in model.routed_modules[0].pool.units[0].weights)
    np.testing.assert_array_equal(hard.routed_modules[0].pool.units[0].kernel, kernel)
    np.testing.assert_array_equal(hard.routed_modules[0].pool.units[0].bias, bias)


@keras.saving.register_keras_serializable("test_conversion")
class Attention(keras.layers.Layer):
    def __init__(self, scorer="dot", **kwargs):
        super().__init__(**kwargs)
        self.scorer = scorer

    def call(self, inputs):
        return inputs

    def get_config(self):
        return {**super().get_config(), "scorer": self.scorer}


def test_with_scorer_leaves_what_another_layer_calls_so():
    inputs = keras.Input((8, 8, 2))
    x, routes = rk.ReSet(2, 2, return_routes=True)(Attention("general")(inputs))
    model = rk.with_scorer(rk.RoutedModel(inputs, x, routes=[routes]), rk.HardScorer(seed=5))
    assert model.layers[1].scorer == "general"
    assert model.routed_modules[0].scorer.get_config()["seed"] == 5


@keras.saving.register_keras_serializable("test_conversion")
class AlwaysRecurrent(rk.ReSet):
    def get_config(self):
        config = super().get_config()
        del config["controller"]
        return config


def test_with_scorer_reaches_a_module_whose_config_has_no_controller():
    inputs = keras.Input((8, 8, 2))
    x, routes = AlwaysRecurrent(2, 2, return_routes=True)(inputs)
    model = rk.with_scorer(rk.RoutedModel(inputs, x, routes=[routes]), "hard")
    assert type(model.routed_modules[0].scorer) is rk.HardScorer


def test_with_scorer_shares_no_variable():
    model = small_reset()
    clone = rk.with_scorer(model, "softmax")
    before = [np.array(weight) for weight in model.weights]
    for weight in clone.weights:
        weight.assign(np.array(weight) + 1)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_controller_given_as_an_example_is_made_anew_for_each_module():
    model = small_reset(controller=rk.RNNController(3, hidden_size=5))
    first, second = (module.controller for module in model.routed_modules)
    assert first is not second
    assert (first.hidden_size, second.hidden_size) == (5, 5)


def test_modules_draw_different_noise_from_one_seed():
    model = small_reset(rk.GumbelSoftmaxScorer(seed=5))
    seeds = [module.scorer.get_config()["seed"] for module in model.routed_modules]
    assert len(set(seeds)) == len(seeds)


def users_model():
    """Two modules, the second one after the first, in a model that is no ReSetNet."""
    inputs = keras.Input((8, 8, 4))
    x, first = rk.ReSet(2, 1, scorer="gumbel_st", return_routes=True)(inputs)
    x, second = rk.ReSet(2, 1, scorer="gumbel_st", return_routes=True)(x)
    return rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[first, second])


@pytest.mark.parametrize("make", [users_model, small_reset])
def test_with_scorer_gives_each_module_noise_of_its_own(make):
    model = rk.with_scorer(make(), rk.GumbelSoftmaxScorer(seed=5))
    logits = np.zeros((4, 3), "float32")
    first, second = (np.array(module.scorer(logits, training=True)) for module in model.routed_modules)
    assert (first != second).any()
    np.testing.assert_array_equal(first, rk.GumbelSoftmaxScorer(seed=5)(logits, training=True))


@pytest.mark.parametrize("make", [users_model, lambda: small_reset("gumbel_st")])
def test_a_network_on_fixed_routes_can_be_trained_as_a_whole_again(make):
    model = make()
    again = rk.with_scorer(with_fixed_routes(model), "gumbel_st")
    assert not any(module.controller.trainable for module in again.routed_modules)
    train_everything(again)
    assert len(again.trainable_variables) == len(model.trainable_variables)
    assert all(module.controller.trainable and module.pool.norm1.trainable for module in again.routed_modules)
    assert {module.pool.execution for module in again.routed_modules} == {"auto"}


def test_with_scorer_keeps_frozen_what_is_outside_the_modules():
    inputs = keras.Input((8, 8, 1))
    stem = keras.layers.Conv2D(4, 3, trainable=False, name="stem")
    x, routes = rk.ReSet(2, 1, return_routes=True)(stem(inputs))
    model = rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[routes])
    assert not rk.with_scorer(model, "gumbel_st").get_layer("stem").trainable


@pytest.fixture(scope="module")
def in_bfloat16():
    """A ResNet and its ReSet, made under a policy that is the global one no more."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return rk.ResNet((3,), 4, (8, 8, 1), width=4), one_module_reset("gumbel_st")
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("index", [0, 1])
def test_a_loaded_network_computes_in_the_types_that_it_was_made_for(in_bfloat16, index, tmp_path):
    network = in_bfloat16[index]
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(IMAGES, training=False), network(IMAGES, training=False))
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def test_networks_made_of_others_keep_their_policy(in_bfloat16):
    resnet, reset = in_bfloat16
    for made in (rk.with_scorer(reset, "softmax"), static_twin(reset), static_twin(resnet), rk.resnet_to_reset(resnet)):
        assert made.get_layer("stem_conv").compute_dtype == "bfloat16"
        assert made.get_layer("classifier").compute_dtype == "float32"
    sequential = rk.resnet_to_reset(resnet, rk.FixedController(3, [0, 1]))
    assert sequential.routed_modules[0].pool.compute_dtype == "bfloat16"


@pytest.mark.parametrize("convert", [static_twin, lambda model: with_dtype_policy(model, "mixed_bfloat16")])
@pytest.mark.parametrize(("make", "kind"), [(user_model, "RoutedModel"), (lambda: 3, "int")])
def test_only_networks_of_known_parts_are_made_anew(convert, make, kind):
    with pytest.raises(ValueError, match=rf"`model` must be a ResNet or a ReSetNet\. Received: an? {kind}"):
        convert(make())


def test_a_config_without_a_policy_is_made_under_the_global_one():
    for network in (small_resnet(), small_reset()):
        config = {key: value for key, value in network.get_config().items() if key != "dtype"}
        assert type(network).from_config(config).dtype_policy.name == "float32"


def test_with_scorer_reaches_modules_whose_routes_are_not_known():
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 1, scorer="gumbel_softmax", return_routes=True)(
        rk.ReSet(2, 1, scorer="gumbel_softmax")(inputs)
    )
    model = rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[routes])
    clone = rk.with_scorer(model, rk.GumbelSoftmaxScorer(temperature=0.25))
    modules = [layer for layer in clone.layers if isinstance(layer, rk.ReSet)]
    assert [float(module.scorer.temperature) for module in modules] == [0.25, 0.25]
    before, after = (
        [np.array(m.controller.dense.kernel) for m in net.layers if isinstance(m, rk.ReSet)] for net in (model, clone)
    )
    np.testing.assert_array_equal(before, after)


def test_with_scorer_takes_a_clone_by_keras_which_gives_no_routes():
    model = one_module_reset()
    hard = rk.with_scorer(keras.models.clone_model(model), "hard")
    hard.set_weights(model.get_weights())
    expected = rk.with_scorer(model, "hard")(IMAGES)
    np.testing.assert_allclose(keras.tree.flatten(hard(IMAGES))[0], expected, atol=1e-6)


def test_a_controller_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"`controller` must be one of .* or a Controller. Received: controller=3"):
        rk.ReSetNet((1,), input_shape=(8, 8, 1), controller=3)


def test_each_module_may_have_a_controller_that_it_is_given(resnet, tmp_path):
    halting = [rk.HaltingController(1, 4, shares=shares) for shares in ((0.5, 0.25), (1.0, 0.75))]
    network = rk.resnet_to_reset(resnet, halting, rk.HardScorer(sampled=False))
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for copy in (network, with_dtype_policy(network, "mixed_bfloat16"), loaded):
        controllers = [module.controller for module in copy.routed_modules]
        assert [controller.shares for controller in controllers] == [(0.5, 0.25), (1.0, 0.75)]
        assert [controller.num_scores for controller in controllers] == [3, 3]
    assert not set(map(id, halting)) & {id(module.controller) for module in network.routed_modules}


@pytest.mark.parametrize("controllers", [[], ["rnn", "rnn"], [rk.HaltingController(1, 4)] * 3])
def test_a_list_of_controllers_has_one_for_each_module(controllers):
    with pytest.raises(ValueError, match="a Controller for each of the 2 modules"):
        rk.ReSetNet((2, 0, 2), None, 4, (8, 8, 1), controllers)


def test_only_a_resnet_has_first_blocks():
    reset = rk.ReSetNet((1,), None, 4, (8, 8, 1), width=4)
    with pytest.raises(ValueError, match=r"`resnet` must be a ResNet\. Received: a ReSetNet"):
        rk.models.first_blocks(reset, (1,))


class OwnNetwork(rk.RoutedModel):
    """Its config holds how it is made, and not its modules."""

    def __init__(self, width=4, name=None):
        inputs = keras.Input((8, 8, 1))
        x, routes = rk.ReSet(2, 2, return_routes=True)(keras.layers.Conv2D(width, 3)(inputs))
        super().__init__(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name, routes=[routes])
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def test_a_scorer_that_no_config_holds_cannot_be_changed():
    with pytest.raises(ValueError, match=r"must hold its modules.* Received: a OwnNetwork, whose `get_config`"):
        rk.with_scorer(OwnNetwork(), "gumbel_st")
    assert type(rk.with_scorer(users_model(), users_model().routed_modules[0].scorer)).__name__ == "RoutedModel"
