import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex

import reset_keras as rk
from reset_keras.analysis import Routes, print_table, write_report
from reset_keras.analysis.class_routes_figure import class_routes_figure
from reset_keras.analysis.figures import trade_off, training_curve
from reset_keras.analysis.table import cells, columns, names_of_tests
from reset_keras.training import WorkDirectory

MEANING = {
    "mutual_information": {"value": 1.2345, "shuffled": 0.0101, "random_controller": 0.5},
    "neighbour_accuracy": {"value": 0.876, "shuffled": 0.1, "random_controller": 0.45},
    "majority": 0.103,
    "images": 360,
}


def row(stage, paper_steps, accuracy, entropy=None, start=None):
    return {
        "event": "stage",
        "stage": stage,
        "paper_steps": paper_steps,
        "title": f"what <{stage}> does",
        "start": start,
        "epochs": 2,
        "accuracy": {"test": accuracy, "cifar10_1_v6": accuracy - 0.1},
        "compute_fraction": 0.75,
        "skip_fraction": 0.125,
        "policy_entropy": entropy,
        "relative_time": 1.5,
        "seconds": 3.0,
        "route_meaning": entropy and MEANING,
    }


ROWS = [row("pretrain", "0", 0.9876), row("finetune", "9", 0.9, 0.4321)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("report")
    workdir = WorkDirectory(tmp_path, {"seed": 3, "dataset": "digits & letters"})
    for stage in ("pretrain", "finetune"):
        for epoch in range(3):
            values = {"accuracy": 0.1 * epoch, "val_accuracy": 0.2 * epoch, "task_loss": 1.0, "skip_fraction": 0.1}
            workdir.append_metrics({"event": "epoch", "stage": stage, "epoch": epoch, "step": 5 * epoch + 5, **values})
    workdir.append_metrics({"event": "warning", "stage": "finetune", "epoch": 1, "message": "units <2> idle"})
    digits = rk.data.load_digits()
    scores = np.random.default_rng(0).dirichlet(np.ones(3), size=(len(digits.test), 2))
    folder = workdir.stage(1, "finetune")
    Routes([{"scores": scores}], (True,), digits.test.labels).save(folder / "routes.npz")
    np.savez(folder / "route_history.npz", steps=[0, 5], zero_units=[True], module_0=scores[:2])
    return write_report(workdir, ROWS, digits).read_text()


def test_a_row_as_text():
    assert columns(ROWS) == ["Step", "Stage", "Test %", "C10.1 v6 %", "Compute", "Skipped %", "Entropy", "Time"]
    assert cells(ROWS[0], names_of_tests(ROWS)) == ["0", "pretrain", "98.76", "88.76", "0.750", "12.5", "-", "1.50x"]
    assert cells(ROWS[1], names_of_tests(ROWS))[6] == "0.432"


def test_a_test_set_that_only_some_stages_had_has_a_column():
    rows = [ROWS[0] | {"accuracy": {"test": 0.9876}}, ROWS[1]]
    assert columns(rows) == columns(ROWS)
    assert cells(rows[0], names_of_tests(rows)) == ["0", "pretrain", "98.76", "-", "0.750", "12.5", "-", "1.50x"]
    assert cells(rows[1], names_of_tests(rows)) == cells(ROWS[1], names_of_tests(ROWS))


def test_the_table_on_the_screen(capsys):
    print_table(ROWS)
    printed = capsys.readouterr().out
    assert "98.76" in printed
    assert "finetune" in printed


def test_the_report_shows_the_table_and_the_settings(report):
    for text in ("98.76", "0.432", "what &lt;pretrain&gt; does", "digits &amp; letters", "seed"):
        assert text in report


def test_the_report_repeats_the_warnings(report):
    assert "<b>finetune</b>, epoch 2: units &lt;2&gt; idle" in report


def test_the_report_says_what_routes_say_about_classes(report):
    cells = re.findall(r"<td>([^<]*)</td>", report[report.index("What routes say") :])
    assert cells[:8] == ["finetune", "1.234", "0.010", "0.500", "87.6", "10.0", "45.0", "10.3"]


class Sections(HTMLParser):
    """Headings of the sections that fold, and the captions of all figures."""

    def __init__(self):
        super().__init__()
        self.inside, self.found = "", {"summary": [], "figcaption": []}

    def handle_starttag(self, tag, attributes):
        self.inside = tag

    def handle_data(self, data):
        if self.inside in self.found:
            self.found[self.inside].append(data)
        self.inside = ""


def test_the_report_shows_the_routes_of_stages_that_trained_them(report):
    page = Sections()
    page.feed(report)
    assert page.found["summary"] == ["Routes of finetune"]
    captions = " ".join(page.found["figcaption"])
    assert [captions.count(f"(figure {number})") for number in (4, 5, 6)] == [1, 1, 1]
    assert captions.count("Routes of the classes") == captions.count("Compute") == 1


def test_the_report_needs_no_other_file(report):
    sources = re.findall(r'(?:src|href)="([^"]*)"', report)
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "http" not in re.sub(r"data:[^\"]*", "", report)


def test_the_figures_are_drawings_with_lines(report):
    found = re.findall(r"base64,([^\"]*)", report)
    assert len(found) == len(set(found)) == 1 + 5 + 4  # accuracy against cost, curves, routes of a stage
    for encoded in found:
        drawing = ElementTree.fromstring(base64.b64decode(encoded))
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        assert len([*drawing.iter("{http://www.w3.org/2000/svg}path")]) > 10


def test_the_trade_off_shows_accuracy_against_macs_and_time():
    computed, timed = trade_off(ROWS).axes
    points = [
        tuple(float(value[0]) for value in line.get_data()) for line in computed.lines if line.get_marker() == "o"
    ]
    assert points == [(0.75, pytest.approx(98.76)), (0.75, pytest.approx(90.0))]
    assert [line.get_xdata()[0] for line in timed.lines if line.get_marker() == "o"] == [1.5, 1.5]


def test_the_trade_off_tells_many_stages_apart():
    computed, _ = trade_off([row(f"stage{number}", "-", 0.9) for number in range(25)]).axes
    points = [line for line in computed.lines if line.get_label().startswith("stage")]
    assert len({(to_hex(line.get_color()), line.get_marker()) for line in points}) == 25


def test_the_trade_off_joins_a_network_and_the_stages_that_start_from_it():
    started = {"halting": "train", "half": "halting", "most": "halting", "finetune": "most"}
    rows = [row(stage, "-", 0.9, start=start) for stage, start in [("train", None), *started.items()]]
    for stage, compute in zip(rows, (1.0, 1.1, 0.5, 0.8, 0.7), strict=True):
        stage["compute_fraction"] = compute
    computed, _ = trade_off(rows).axes
    joined = [list(line.get_xdata()) for line in computed.lines if len(line.get_xdata()) > 2]
    assert joined == [[0.5, 0.8, 1.1]]


def lines_of(metrics, rows, series):
    (axes,) = training_curve(metrics, rows, series, "nats").axes
    return {line.get_label(): line for line in axes.lines if line.get_label() in series.values()}


def test_the_epochs_of_a_stage_follow_those_of_the_one_before():
    values = [("pretrain", 100, 2.0), ("pretrain", 200, 1.0), ("finetune", 50, 0.5)]
    metrics = [{"event": "epoch", "stage": stage, "step": step, "loss": loss} for stage, step, loss in values]
    metrics[1]["val_loss"] = 1.5
    rows = [{"stage": "pretrain"}, {"stage": "convert"}, {"stage": "finetune"}]
    lines = lines_of(metrics, rows, {"loss": "training", "val_loss": "test"})
    np.testing.assert_array_equal(lines["training"].get_data(), [(100, 200, 250), (2.0, 1.0, 0.5)])
    np.testing.assert_array_equal(lines["test"].get_data(), [(200,), (1.5,)])


def test_a_stage_that_was_renamed_is_left_out():
    line = {"event": "epoch", "step": 3, "accuracy": 0.5}
    lines = lines_of([{**line, "stage": "old"}, {**line, "stage": "new"}], [row("new", "-", 0.5)], {"accuracy": "a"})
    np.testing.assert_array_equal(lines["a"].get_data(), [(3,), (0.5,)])


def test_a_training_of_a_single_epoch_is_seen():
    metrics = [{"event": "epoch", "stage": "pretrain", "step": 450, "loss": 1.5}]
    assert lines_of(metrics, [{"stage": "pretrain"}], {"loss": "training"})["training"].get_marker() == "."


def test_classes_are_shown_by_how_their_routes_differ_from_the_mean():
    """One iteration, two units; images of class 0 take the first, those of class 1 the second."""
    scores = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    routes = Routes([{"logits": scores, "scores": scores}], (False,), np.array([0, 1, 1, 1]))
    figure = class_routes_figure(routes, np.array(["one", "many"]), "title")
    shown = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.images}
    for title, expected in (("mean of all", [0.25, 0.75]), ("one", [0.75, -0.75]), ("many", [-0.25, 0.25])):
        array = np.ma.filled(shown[title], np.nan)
        np.testing.assert_allclose(np.sort(array[np.isfinite(array)]), np.sort(expected), atol=1e-6)


@pytest.mark.parametrize("name", ["routes.npz", "route_history.npz"])
def test_a_damaged_file_of_a_run_costs_its_figures_only(tmp_path, name):
    workdir = WorkDirectory(tmp_path, {})
    digits = rk.data.load_digits()
    scores = np.random.default_rng(0).dirichlet(np.ones(3), size=(len(digits.test), 2))
    folder = workdir.stage(1, "finetune")
    Routes([{"scores": scores}], (True,), digits.test.labels).save(folder / "routes.npz")
    np.savez(folder / "route_history.npz", steps=[0, 5], zero_units=[True], module_0=scores[:2])
    (folder / name).write_bytes((folder / name).read_bytes()[:50])
    with pytest.warns(UserWarning, match=rf"without the routes of stage 'finetune': .*{name} holds no"):
        page = write_report(workdir, ROWS, digits).read_text()
    assert "Accuracy against cost" in page
    assert "figure 6" not in page


@pytest.mark.slow
def test_the_report_shows_the_easiest_images_of_the_last_stage_whose_images_halt(tmp_path):
    digits, workdir = rk.data.load_digits(), WorkDirectory(tmp_path, {})
    runs = np.arange(2) < np.arange(len(digits.test))[:, None] % 3  # no unit, the first, or both
    halting = np.where(runs[..., None], np.eye(3)[:2], np.eye(3)[2])
    for index, scores in enumerate((halting, halting, np.ones_like(halting))):
        Routes([{"scores": scores}], (True,)).save(workdir.stage(index, f"stage{index}") / "routes.npz")
    report = write_report(workdir, [row(f"stage{index}", "", 0.9) for index in range(3)], digits).read_text()
    figures = [base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", report)]
    titles = re.findall(r"Units that images run in each module \((\w+)\)", "".join(figures))
    assert set(titles) == {"stage1"}
