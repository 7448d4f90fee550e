import base64
import re
from xml.etree import ElementTree

import pytest

from reset_keras.analysis import print_table, write_report
from reset_keras.analysis.figures import trade_off
from reset_keras.analysis.table import cells, columns
from reset_keras.training import WorkDirectory


def row(stage, steps, accuracy, entropy=None):
    return {
        "event": "stage",
        "stage": stage,
        "steps": steps,
        "title": f"what <{stage}> does",
        "epochs": 2,
        "accuracy": {"test": accuracy, "cifar10_1_v6": accuracy - 0.1},
        "compute_fraction": 0.75,
        "skip_fraction": 0.125,
        "policy_entropy": entropy,
        "relative_time": 1.5,
        "seconds": 3.0,
    }


ROWS = [row("pretrain", "0", 0.9876), row("finetune", "9", 0.9, 0.4321)]


@pytest.fixture
def report(tmp_path):
    workdir = WorkDirectory(tmp_path, {"seed": 3, "dataset": "digits & letters"})
    for stage in ("pretrain", "finetune"):
        for epoch in range(3):
            values = {"accuracy": 0.1 * epoch, "val_accuracy": 0.2 * epoch, "task_loss": 1.0, "skip_fraction": 0.1}
            workdir.append_metrics({"event": "epoch", "stage": stage, "epoch": epoch, "step": 5 * epoch + 5, **values})
    return write_report(workdir, ROWS).read_text()


def test_a_row_as_text():
    assert columns(ROWS) == ["Step", "Stage", "Test %", "C10.1 v6 %", "Compute", "Skipped %", "Entropy", "Time"]
    assert cells(ROWS[0]) == ["0", "pretrain", "98.76", "88.76", "0.750", "12.5", "-", "1.50x"]
    assert cells(ROWS[1])[6] == "0.432"


def test_the_table_on_the_screen(capsys):
    print_table(ROWS)
    printed = capsys.readouterr().out
    assert "98.76" in printed
    assert "finetune" in printed


def test_the_report_shows_the_table_and_the_settings(report):
    for text in ("98.76", "0.432", "what &lt;pretrain&gt; does", "digits &amp; letters", "seed"):
        assert text in report


def test_the_report_needs_no_other_file(report):
    sources = re.findall(r'(?:src|href)="([^"]*)"', report)
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "http" not in re.sub(r"data:[^\"]*", "", report)


def test_the_figures_are_drawings_with_lines(report):
    for encoded in re.findall(r"base64,([^\"]*)", report):
        drawing = ElementTree.fromstring(base64.b64decode(encoded))
        assert drawing.tag.endswith("svg")


def test_the_trade_off_shows_accuracy_against_macs_and_time():
    computed, timed = trade_off(ROWS).axes
    points = [
        tuple(float(value[0]) for value in line.get_data()) for line in computed.lines if line.get_marker() == "o"
    ]
    assert points == [(0.75, pytest.approx(98.76)), (0.75, pytest.approx(90.0))]
    assert [line.get_xdata()[0] for line in timed.lines if line.get_marker() == "o"] == [1.5, 1.5]
