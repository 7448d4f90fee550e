import sys

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import ONE_BACKEND, one_module_reset, small_reset
from reset_keras.inference import (
    compute_fractions,
    cost,
    freeze,
    interleaved_times,
    macs,
    relative_inference_times,
    static_baseline,
)
from reset_keras.inference.costs import timing
from reset_keras.models import static_twin
from reset_keras.models.operations import count_operations


@pytest.mark.parametrize(("n", "count"), [(3, 40_551_040), (6, 83_018_368)])
def test_macs_of_resnets_by_hand(n, count):
    by_hand = 9 * 3 * 16 * 32**2 + 2 * n * 9 * 16 * 16 * 32**2
    for width, size in ((32, 16), (64, 8)):
        by_hand += 9 * (width // 2) * width * size**2 + (2 * n - 1) * 9 * width * width * size**2
    by_hand += 64 * 10
    assert by_hand == count
    assert macs(rk.ResNet((n, n, n))) == count


def test_a_layer_that_is_called_twice_counts_twice():
    inputs, dense = keras.Input((6,)), keras.layers.Dense(6)
    assert macs(keras.Model(inputs, dense(dense(inputs)))) == 2 * 6 * 6
    assert macs(keras.Sequential([inputs, dense])) == 6 * 6


def test_a_convolution_counts_the_same_with_its_channels_first():
    first = keras.Sequential([keras.Input((3, 8, 6)), keras.layers.Conv2D(4, 3, 2, "same", "channels_first")])
    assert macs(first) == 9 * 3 * 4 * (4 * 3)


def test_models_in_a_model_are_counted():
    """As a layer of a model, and as a unit of a pool."""
    backbone, inputs = rk.ResNet((2,), 5, (8, 8, 4), width=4), keras.Input((8, 8, 4))
    assert macs(keras.Sequential([inputs, backbone, keras.layers.Dense(3)])) == macs(backbone) + 5 * 3
    units = [keras.Sequential([keras.layers.Conv2D(4, 3, padding="same"), keras.layers.ReLU()]) for _ in range(2)]
    x, routes = rk.ReSet(units, 2, return_routes=True)(keras.Sequential([keras.layers.Conv2D(4, 1)])(inputs))
    model = rk.RoutedModel(inputs, x, routes=[routes])
    taken = rk.inference.routed_macs(model, routes_of(model, [1], images=1))
    np.testing.assert_array_equal(taken, 64 * 4 * 4 + 2 * controller_macs(4, scores=3) + 2 * 64 * 9 * 4 * 4)


def test_models_for_images_of_any_size_are_counted_at_the_size_that_they_are_given():
    """In a model, in a model in it, and as a unit of a pool; one layer is called with its input by name."""
    inputs, free = keras.Input((8, 8, 4)), keras.Input((None, None, 4))
    convolution = keras.Sequential([keras.Input((None, None, 4)), keras.layers.Conv2D(4, 3, padding="same")])
    halved = keras.layers.Conv2D(4, 3, 2, padding="same")(inputs=rk.ResidualUnit(4)(free))
    around = keras.Model(free, keras.layers.BatchNormalization()(convolution(halved)))
    assert macs(keras.Model(inputs, around(inputs))) == 9 * 4 * 4 * (2 * 64 + 16 + 16)
    x, routes = rk.ReSet([convolution], 1, return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, x, routes=[routes])
    assert count_operations(model.network, model.routed_modules).units[0].tolist() == [9 * 4 * 4 * 64]


def test_a_model_that_is_no_graph_cannot_be_counted():
    with pytest.raises(ValueError, match=r"call `routed_macs`\. Received: 'routed_model' of the type ReSetNet"):
        macs(rk.ReSetNet((2,), input_shape=(8, 8, 1), name="routed_model"))


def routes_of(model, chosen, images=3):
    """Routes in which every iteration runs the units with the given indices."""
    routes = []
    for module in model.routed_modules:
        scores = np.zeros((images, module.num_iterations, module.num_scores), "float32")
        scores[..., chosen] = 0.5
        routes.append({"logits": scores, "scores": scores})
    return routes


def controller_macs(channels, scores=6, size=64):
    return 4 * size * (channels + size) + size * scores


@pytest.mark.parametrize(
    ("options", "of_a_controller"),
    [
        ({"controller": "cnn"}, 9 * 4 * 16 * 64 + 16 * 3),
        ({"controller": rk.HaltingController(3, 4), "scorer": rk.HardScorer(sampled=False)}, 4 * 4),
        ({"pool_options": {"shared": "second"}}, controller_macs(4, scores=3)),
    ],
    ids=["cnn", "halting", "shared"],
)
def test_operations_of_controllers_and_units_by_hand(options, of_a_controller):
    model = one_module_reset(**options)
    counted = count_operations(model.network, model.routed_modules)
    assert counted.controllers == 2 * of_a_controller  # iterations
    np.testing.assert_array_equal(counted.units, [[2 * 9 * 4 * 4 * 64] * 2])


@pytest.mark.parametrize(
    ("controller", "asked"), [(rk.RNNController(3), 2), (rk.GateController(3, 3), 1)], ids=["rnn", "gate"]
)
def test_controllers_that_are_not_asked_cost_nothing(controller, asked):
    allowed = [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    model = rk.ReSetNet((2,), (3,), 4, (8, 8, 1), controller, "hard", allowed=allowed, width=4)
    of_a_call = controller_macs(4, scores=3) if asked == 2 else 4 * 16 + 16 * 3
    assert count_operations(model.network, model.routed_modules).controllers == asked * of_a_call


def test_a_policy_network_that_is_not_asked_costs_nothing():
    def controllers(allowed):
        model = one_module_reset("hard", controller="policy", allowed=allowed)
        return count_operations(model.network, model.routed_modules).controllers

    assert controllers([[1, 0, 0], [0, 1, 0]]) == 0
    one, both = controllers([[1, 0, 0], [0, 1, 1]]), controllers("any")
    assert 0 < both - one < one  # a row of the dense layer; the network is run for one as for both


def test_compute_fractions_by_hand():
    model = rk.ReSetNet((3, 3, 3))
    static = macs(rk.ResNet((4, 4, 4)))
    controllers = 3 * sum(controller_macs(channels, scores=4) for channels in (16, 32, 64))
    unit = 2 * 9 * 16 * 16 * 32 * 32  # of each stage: half the size, twice the width
    for chosen, units in (([0], 1), ([1, 2], 2), ([3], 0), ([0, 1, 2, 3], 3)):
        expected = (static + controllers + (units - 1) * 9 * unit) / static
        fractions = compute_fractions(model, routes_of(model, chosen))
        np.testing.assert_allclose(fractions, expected, rtol=1e-9)
    assert static == macs(static_twin(model))


def test_images_are_counted_one_by_one():
    model = small_reset()
    routes = routes_of(model, [0], images=2)
    routes[0]["scores"][1] = 0
    first, second = compute_fractions(model, routes)
    assert second < first


def test_the_sequential_route_costs_what_the_resnet_does():
    resnet = rk.ResNet((3, 2), 4, (8, 8, 1), width=4)
    reset = rk.resnet_to_reset(resnet, [rk.FixedController(3, [0, 1]), rk.FixedController(2, [0])], "hard")
    routes = reset(np.zeros((2, 8, 8, 1), "float32"), training=False, return_routes=True).routes
    np.testing.assert_allclose(compute_fractions(reset, routes), 1.0, rtol=1e-12)


def test_a_layer_that_cannot_be_counted_is_named():
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, keras.layers.LSTM(3, name="recurrent")(inputs))
    with pytest.raises(ValueError, match="layer 'recurrent' of the type LSTM"):
        macs(model)


def test_a_time_is_the_mean_of_a_turn_and_turns_are_taken_one_after_the_other(monkeypatch):
    """A clock that each call of `slow` moves by 3 s and each call of `fast` by 1 s."""
    clock, calls = [0.0], []

    def run(name, seconds):
        calls.append(name)
        clock[0] += seconds
        return np.zeros(1)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    runs = {"slow": lambda: run("slow", 3.0), "fast": lambda: run("fast", 1.0)}
    times = interleaved_times(runs, rounds=4, round_seconds=6.0)
    np.testing.assert_array_equal(times["slow"], [3.0] * 4)
    np.testing.assert_array_equal(times["fast"], [1.0] * 4)
    assert calls[-16:] == (["slow"] * 2 + ["fast"] * 6) * 2


@pytest.mark.parametrize("returned", [None, [], {"loss": None}])
def test_what_is_timed_returns_what_can_be_waited_for(returned):
    with pytest.raises(ValueError, match=r"must return a tensor.* Received: a function that returned (None|\[\]|{'l)"):
        interleaved_times({"run": lambda: returned})
    assert interleaved_times({"run": lambda: (None, keras.ops.ones(2))}, 1, 1e-6)["run"].shape == (1,)


def test_the_baseline_has_offsets_that_do_not_vanish_when_folded():
    model = small_reset("gumbel_st")
    baseline = static_baseline(model)
    assert baseline.stage_blocks == static_twin(model).stage_blocks
    betas = [np.array(weight) for weight in baseline.weights if weight.name.startswith("beta")]
    assert len(betas) == 1 + 2 * sum(baseline.stage_blocks)
    assert all(beta.all() for beta in betas)


def test_a_relative_time_is_the_median_of_the_network_over_that_of_its_baseline(monkeypatch):
    seen = {4: [], 5: []}

    def times(runs):
        """Of the network, the one with four classes, 3 s a batch; of the baseline 2 s, and 6 s for an image."""
        sizes, seconds = [output.shape[0] for output in (run() for run in runs.values())], {4: 3.0, 5: 2.0}
        slow = {4: 1.0, 5: 3.0 if sizes[0] == 1 else 1.0}
        return {
            name: np.array([99.0, 0.1, seconds[classes] * slow[classes]])
            for name, run in runs.items()
            for classes in [run().shape[1]]
        }

    call = rk.inference.FrozenNetwork.__call__

    def called(network, images):
        outputs = call(network, images)
        seen[outputs.shape[1]].append(np.array(images))
        return outputs

    monkeypatch.setattr(rk.inference.FrozenNetwork, "__call__", called)
    monkeypatch.setattr(timing, "interleaved_times", times)
    images = np.random.default_rng(0).normal(size=(130, 8, 8, 1)).astype("float32")
    networks = [
        rk.ReSetNet((1,), None, 4, (8, 8, 1), scorer="gumbel_st", width=4),
        rk.ResNet((1,), 5, (8, 8, 1), width=4),
    ]
    ratios = relative_inference_times(*networks, images)
    assert ratios == {1: 0.5, 128: 1.5}
    for batches in seen.values():  # two runs of each
        assert [len(batch) for batch in batches] == [1] * 32 + [128] * 2
        np.testing.assert_array_equal(np.concatenate(batches[:16]), images[:16])
        np.testing.assert_array_equal(batches[-1], images[:128])


@pytest.mark.parametrize("dtype", ["int32", pytest.param("string", marks=ONE_BACKEND)])
def test_ids_and_words_are_timed_as_they_are(dtype, monkeypatch):
    inputs, call, seen = keras.Input((2,), dtype=dtype), rk.inference.FrozenNetwork.__call__, []
    words = keras.layers.StringLookup(vocabulary=["a", "b"])
    numbers = words(inputs) if dtype == "string" else inputs
    model = keras.Model(inputs, keras.ops.cast(numbers, "float32"))
    batch = np.array([["a", "b"]] if dtype == "string" else [[2**24 + 1, 3]])
    network = freeze(model)
    monkeypatch.setattr(
        rk.inference.FrozenNetwork, "__call__", lambda self, images: seen.append(images) or call(self, images)
    )
    monkeypatch.setattr(timing, "interleaved_times", lambda runs: {name: [len(run())] for name, run in runs.items()})
    assert timing.median_times({"ours": network}, [batch]) == {"ours": 1}
    np.testing.assert_array_equal(np.array(seen[0]).astype(batch.dtype), batch)


@pytest.mark.slow
def test_a_cost_report_by_hand():
    """All images take unit 0 of both stages: width 4 on 8 by 8 pixels, then width 8 on 4 by 4."""
    model = rk.ReSetNet((2, 1), None, 4, (8, 8, 1), scorer="gumbel_st", width=4)
    for module in model.routed_modules:
        module.controller.dense.bias.assign(100 * np.eye(module.num_scores)[0])
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")
    report = cost(model, images, batch_sizes=(2,))
    unit = 2 * 2 * 9 * 4 * 4 * 8 * 8
    controllers = 2 * controller_macs(4, scores=3) + controller_macs(8, scores=2)
    static = macs(static_twin(model))
    assert report.parts["stage0_reset, unit 1"] == unit
    assert report.parts["stage0_reset, unit 2"] == 0
    assert report.parts["stage1_reset, unit 1"] == unit / 2  # in one iteration
    assert report.parts["controllers"] == controllers
    np.testing.assert_array_equal(report.macs, static + controllers)
    np.testing.assert_allclose(report.compute_fractions, (static + controllers) / static)
    assert sum(report.parts.values()) == static + controllers
    assert report.parameters == model.count_params() - sum(w.size for w in map(np.array, model.non_trainable_weights))
    assert report.seconds[2] > 0
    assert report.relative_times[2] > 0
    printed = str(report)
    assert f"{static + controllers:,}" in printed
    assert "time of a batch of 2" in printed
    assert report.device in printed


def test_times_are_over_the_static_networks(monkeypatch):
    model = rk.ReSetNet((1,), None, 4, (8, 8, 1), scorer="gumbel_st", width=4)
    module = sys.modules["reset_keras.inference.costs.cost"]  # its name in the package is that of the function
    monkeypatch.setattr(module, "median_times", lambda networks, _: dict(zip(networks, (3.0, 2.0), strict=True)))
    report = cost(model, np.zeros((2, 8, 8, 1), "float32"), batch_sizes=(2,))
    assert (report.seconds, report.relative_times) == ({2: 3.0}, {2: 1.5})


@pytest.mark.parametrize(
    ("size", "images", "batches"),
    [
        (1, 48, [[3 * index] for index in range(16)]),
        (1, 3, [[0], [1], [2]]),
        (8, 32, [list(range(0, 16, 2)), list(range(16, 32, 2))]),
        (4, 2, [[0, 0, 1, 1]]),
        (32, 64, [list(range(0, 64, 2))]),
    ],
)
def test_a_time_is_the_mean_of_images_from_everywhere_in_the_array(monkeypatch, size, images, batches):
    """Image i takes i seconds; it was the first ones whose time was told."""
    resnet, timed = rk.ResNet((1,), 4, (8, 8, 1), width=4), []

    def times(networks, given):
        timed.extend(batch[:, 0, 0, 0].tolist() for batch in given)
        return {name: float(sum(map(sum, timed))) for name in networks}

    monkeypatch.setattr(sys.modules["reset_keras.inference.costs.cost"], "median_times", times)
    numbers = np.arange(images, dtype="float32")[:, None, None, None]
    report = cost(resnet, np.tile(numbers, (1, 8, 8, 1)), batch_sizes=(size,))
    assert timed == batches
    assert report.seconds == {size: sum(map(sum, batches)) / len(batches)}


def test_a_resnet_costs_what_it_computes():
    resnet = rk.ResNet((1, 1), 4, (8, 8, 1), width=4)
    report = cost(resnet, np.zeros((3, 8, 8, 1), "float32"), batch_sizes=(1,))
    np.testing.assert_array_equal(report.macs, [macs(resnet)] * 3)
    assert report.relative_times == {}


def test_a_cost_needs_images():
    with pytest.raises(ValueError, match="`images` must hold an image"):
        cost(small_reset(), np.zeros((0, 8, 8, 1)), (1,))


def test_a_device_has_a_name_where_only_linux_tells_its_cores(monkeypatch):
    monkeypatch.delattr(timing.os, "sched_getaffinity")
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 7)
    fields = {"model name": "Some CPU", "flags": "fpu avx2 avx512f"}
    monkeypatch.setattr(timing, "_of_cpu", fields.get)
    assert timing.device_name() == "Some CPU, 7 cores, AVX-512"
    fields["flags"] = ""
    assert timing.device_name() == "Some CPU, 7 cores"
