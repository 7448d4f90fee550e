import dataclasses
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

import reset_keras as rk
from reset_keras.analysis import Routes, write_route_figures
from reset_keras.analysis.policy_evolution import policy_evolution_figure
from reset_keras.analysis.route_figures import routed_stages
from reset_keras.analysis.score_deviation import score_deviation_figure
from reset_keras.analysis.similar_routes import similar_routes
from reset_keras.analysis.similar_routes_figure import similar_routes_figure

RNG = np.random.default_rng(0)
SCORES = [RNG.dirichlet(np.ones(4), size=(360, 3)), RNG.dirichlet(np.ones(2), size=(360, 2))]
ZERO_UNITS = (True, False)
STEPS = np.array([0, 500, 1000, 5000])
MEANS = [part[:4] for part in SCORES]


def scores_of(stage):
    """Scores of two modules for each test image, other ones in each stage."""
    rng = np.random.default_rng({"gumbel": 1, "hybrid": 2}[stage])
    return [rng.dirichlet(np.ones(3), size=(360, 2)), rng.dirichlet(np.ones(2), size=(360, 1))]


def finished(workdir, index, name, policy_entropy=0.5):
    folder = workdir / "stages" / f"{index:02d}-{name}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"stage": name, "policy_entropy": policy_entropy}))
    return folder


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"dataset": "digits", "image_size": None}))
    finished(tmp_path, 0, "pretrain", policy_entropy=None)
    labels = rk.data.load_digits().test.labels
    for index, name in enumerate(("gumbel", "hybrid"), start=1):
        folder = finished(tmp_path, index, name)
        Routes([{"scores": part} for part in scores_of(name)], ZERO_UNITS, labels).save(folder / "routes.npz")
        means = {f"module_{number}": part[:, :1] for number, part in enumerate(MEANS)}
        history = {"steps": STEPS, "zero_units": ZERO_UNITS, **means}
        np.savez(folder / "route_history.npz", **history)
    (tmp_path / "stages" / "03-finetune").mkdir()
    return tmp_path


DEVIATIONS = Routes([{"scores": part} for part in SCORES], ZERO_UNITS).deviations()


def test_figure_4_says_each_deviation_in_its_cell():
    first, second = (part.copy() for part in DEVIATIONS)
    first[0, 3] = 0.0
    figure = score_deviation_figure([first, second], ZERO_UNITS, "title")
    panel, other = figure.axes[:2]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["1", "2", "3", "zero"]
    assert [label.get_text() for label in other.get_yticklabels()] == ["1", "2"]
    texts = {text.get_position(): text.get_text() for text in panel.texts}
    assert texts.pop((0, 3)) == "0"
    assert texts == {(k, unit): f"{first[k, unit]:.2f}" for k, unit in np.ndindex(3, 4) if (k, unit) != (0, 3)}
    (image,), (other_image,) = panel.images, other.images
    np.testing.assert_array_equal(image.get_array(), first.T)
    assert image.get_clim() == other_image.get_clim() == (0.0, max(first.max(), second.max()))


def test_figure_4_of_routes_that_never_differ():
    figure = score_deviation_figure([np.zeros((1, 1))], (False,), "title")
    assert figure.axes[0].texts[0].get_text() == "0"


def test_figure_5_shows_images_as_they_are_and_their_scores():
    digits = dataclasses.replace(rk.data.load_digits(), class_names=tuple("abcdefghij"))
    found = similar_routes(SCORES, [3, 8])
    figure = similar_routes_figure(found, SCORES, digits, ZERO_UNITS, "title")
    axes = [axes for axes in figure.axes if axes.images]
    for index, row in enumerate(found):
        images = (row.query, *row.neighbours)
        for column, image in enumerate(images):
            shown, mapped = axes[12 * index + 2 * column : 12 * index + 2 * column + 2]
            np.testing.assert_array_equal(shown.images[0].get_array(), digits.test.images[image, ..., 0])
            assert shown.images[0].get_clim() == (0, 255)
            expected = np.full((4, 5), np.nan)
            expected[:, :3] = SCORES[0][image].T
            expected[:2, 3:] = SCORES[1][image].T
            np.testing.assert_array_equal(mapped.images[0].get_array().filled(np.nan), expected)
            said = "query" if column == 0 else f"distance {row.distances[column - 1]:.3g}"
            assert shown.get_title() == f"{'abcdefghij'[digits.test.labels[image]]}\n{said}"


def test_figure_5_says_how_many_more_are_as_near():
    found = similar_routes([np.ones((360, 1, 2))], [0])
    figure = similar_routes_figure(found, [np.ones((360, 1, 2))], rk.data.load_digits(), (True,), "title")
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["and 354 more\nat distance 0"]


def test_figure_6_has_a_line_for_each_unit():
    figure = policy_evolution_figure(STEPS, MEANS, ZERO_UNITS, "title")
    grid = np.array(figure.axes).reshape(2, 3)
    assert [[axes.get_visible() for axes in row] for row in grid] == [[True] * 3, [True, True, False]]
    for row, part in zip(grid, MEANS, strict=True):
        for k in range(part.shape[1]):
            assert len(row[k].lines) == part.shape[2]
            for unit, line in enumerate(row[k].lines):
                np.testing.assert_array_equal(line.get_xdata(), STEPS / 1000)
                np.testing.assert_array_equal(line.get_ydata(), part[:, k, unit])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1", "2", "3", "zero"]
    assert "thousands" in figure.get_supxlabel()
    assert "thousands" not in policy_evolution_figure(STEPS[:2], [MEANS[0][:2]], (True,), "title").get_supxlabel()


def test_a_unit_has_one_colour_in_all_of_figure_6():
    figure = policy_evolution_figure(STEPS, [RNG.random((4, 1, 13)), MEANS[0]], (True, True), "title")
    large, small = figure.axes[0].lines, figure.axes[3].lines
    assert [line.get_color() for line in small[:3]] == [line.get_color() for line in large[:3]]
    assert small[3].get_color() == large[12].get_color() == "black"
    assert len({line.get_color() for line in large}) == 13


@pytest.mark.slow
def test_files_of_a_run(workdir):
    paths = write_route_figures(str(workdir), str(workdir / "figures"), queries=1)
    names = ("figure4-hybrid", "figure5-hybrid", "figure6-gumbel", "figure6-hybrid")
    assert [path.name for path in paths] == [f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")]
    for path in paths:
        if path.suffix == ".png":
            assert imread(path).std() > 0.01
        else:
            content = path.read_bytes()
            assert content.startswith(b"%PDF")
            assert content.rstrip().endswith(b"%%EOF")


def test_files_of_a_stage(workdir):
    (workdir / "stages" / "01-gumbel" / "route_history.npz").unlink()
    paths = write_route_figures(workdir, workdir / "new" / "folder", stage="gumbel", queries=1)
    assert {path.name for path in paths} == {f"figure{n}-gumbel.{suffix}" for n in (4, 5) for suffix in ("png", "pdf")}


def without_histories(workdir):
    """Figure 6, which takes time, is not drawn then."""
    for history in workdir.glob("stages/*/route_history.npz"):
        history.unlink()


def test_figures_4_and_5_are_of_the_stages_network(workdir, monkeypatch):
    drawn = {}

    def figure(**what):
        drawn.update(what)
        return Figure()

    part = "reset_keras.analysis.route_figures."
    monkeypatch.setattr(f"{part}similar_routes_figure", lambda found, scores, *rest: figure(scores=scores))
    monkeypatch.setattr(f"{part}score_deviation_figure", lambda deviations, *rest: figure(deviations=deviations))
    without_histories(workdir)
    for stage in ("gumbel", "hybrid"):
        write_route_figures(workdir, workdir / "figures", stage=stage, queries=1)
        for found, expected in zip(drawn["scores"], scores_of(stage), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-3)
        deviations = [part.std(axis=0) for part in scores_of(stage)]
        for found, expected in zip(drawn["deviations"], deviations, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-3)


def test_figure_5_of_a_run_that_was_tested_on_held_out_images_shows_these(workdir, monkeypatch):
    settings = {"dataset": "digits", "image_size": None, "validation": 100}
    (workdir / "config.json").write_text(json.dumps(settings))
    held = rk.data.hold_out(rk.data.load_digits(), 100).test
    folder = workdir / "stages" / "02-hybrid"
    Routes([{"scores": part[:100]} for part in scores_of("hybrid")], ZERO_UNITS, held.labels).save(
        folder / "routes.npz"
    )
    without_histories(workdir)
    shown = []

    def figure(found, scores, dataset, *rest):
        shown.append(dataset.test)
        return Figure()

    monkeypatch.setattr("reset_keras.analysis.route_figures.similar_routes_figure", figure)
    write_route_figures(workdir, workdir / "figures")
    np.testing.assert_array_equal(shown[0].images, held.images)
    np.testing.assert_array_equal(shown[0].labels, held.labels)


def test_a_run_of_a_dataset_of_ones_own_has_the_figures_that_show_no_images(workdir):
    (workdir / "config.json").write_text(json.dumps({"seed": 0}))
    with pytest.warns(UserWarning, match=r"Figure 5.* is left out: .*config.json has no 'dataset' and no 'image_size'"):
        paths = write_route_figures(workdir, workdir / "figures", stage="gumbel")
    assert {path.name for path in paths} == {f"figure{n}-gumbel.{suffix}" for n in (4, 6) for suffix in ("png", "pdf")}


@pytest.mark.parametrize("history", [{"steps": []}, {"steps": [], "module_0": np.ones((0, 2, 3))}])
def test_a_history_without_a_record_is_named(workdir, history):
    np.savez(workdir / "stages" / "01-gumbel" / "route_history.npz", zero_units=[True], **history)
    with pytest.raises(ValueError, match=r"route_history.npz holds no history that can be read \(it has no record\)"):
        write_route_figures(workdir, workdir / "figures", stage="gumbel", queries=1)


def test_only_finished_routed_stages_count(workdir):
    assert routed_stages(workdir) == {
        "gumbel": workdir / "stages" / "01-gumbel",
        "hybrid": workdir / "stages" / "02-hybrid",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "finetune"}, r"no finished stage 'finetune' with a routed network; it has \['gumbel', 'hybrid'\]"),
        ({"stage": "pretrain"}, "no finished stage 'pretrain' with a routed network"),
        ({"queries": 11}, "of which there are 10. Received: 11"),
    ],
)
def test_mistakes_are_named(workdir, options, message):
    with pytest.raises(ValueError, match=message):
        write_route_figures(workdir, workdir / "figures", **options)
    assert not (workdir / "figures").exists()


def test_folders_without_anything_to_draw(tmp_path):
    with pytest.raises(ValueError, match="is no work directory of a recipe"):
        routed_stages(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    finished(tmp_path, 0, "pretrain", policy_entropy=None)
    with pytest.raises(ValueError, match="no finished stage with a routed network yet"):
        routed_stages(tmp_path)
