"""The server in `examples`: what it answers, and how it batches, refuses and goes on."""

import argparse
import http.client
import http.server
import importlib.util
import io
import json
import pathlib
import queue
import threading

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, one_module_reset, randomize

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
IMAGES, _ = images_and_labels(16)


@pytest.fixture(scope="module")
def serve():
    path = pathlib.Path(__file__).parents[1] / "examples" / "serve.py"
    spec = importlib.util.spec_from_file_location("serve", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model():
    return randomize(one_module_reset("gumbel_st"))


def session_of(serve, model, folder, one_image=False):
    rk.inference.export(rk.inference.freeze(model), folder / "network.onnx", "onnx", one_image)
    return serve.onnxruntime.InferenceSession(folder / "network.onnx")


@pytest.fixture(scope="module")
def network(serve, model, tmp_path_factory):
    """A network's session, and what its model says of the images."""
    return session_of(serve, model, tmp_path_factory.mktemp("served")), model.predict(IMAGES, verbose=0)


class Watched:
    """A session that notes the sizes of its batches, waits for `free`, and fails where it is told to."""

    def __init__(self, session):
        self.session, self.sizes, self.free, self.fails = session, [], threading.Event(), False
        self.begun = threading.Event()
        self.get_inputs = session.get_inputs
        self.free.set()

    def run(self, names, inputs):
        self.begun.set()
        self.free.wait(30)
        self.sizes.append(len(inputs["images"]))
        if self.fails:
            raise RuntimeError("out of memory")
        return self.session.run(names, inputs)


def test_what_waits_runs_as_batches_and_each_image_gets_its_own_outputs(serve, network):
    session, expected = network
    watched = Watched(session)
    watched.free.clear()
    server = serve.Server(watched, batch_size=6)
    futures = [server.submit(IMAGES[0])]
    watched.begun.wait(30)
    futures += [server.submit(image) for image in IMAGES[1:]]
    watched.free.set()
    np.testing.assert_allclose([future.result(30) for future in futures], expected, atol=1e-4)
    assert watched.sizes == [1, 6, 6, 3]


def test_a_file_for_one_image_runs_image_after_image(serve, network, model, tmp_path):
    watched = Watched(session_of(serve, model, tmp_path, one_image=True))
    server = serve.Server(watched, batch_size=6)
    futures = [server.submit(image) for image in IMAGES]
    np.testing.assert_allclose([future.result(30) for future in futures], network[1], atol=1e-4)
    assert watched.sizes == [1] * 16


def test_a_batch_that_fails_does_not_end_the_server(serve, network):
    session, expected = network
    watched = Watched(session)
    watched.fails = True
    server = serve.Server(watched, batch_size=6)
    with pytest.raises(RuntimeError, match="out of memory"):
        server.submit(IMAGES[0]).result(30)
    watched.fails = False
    np.testing.assert_allclose(server.submit(IMAGES[0]).result(30), expected[0], atol=1e-4)


def test_a_full_queue_refuses(serve, network, monkeypatch):
    monkeypatch.setattr(serve, "WAITING", 2)
    watched = Watched(network[0])
    watched.free.clear()
    server = serve.Server(watched, batch_size=6)
    server.submit(IMAGES[0])
    watched.begun.wait(30)
    waiting = [server.submit(image) for image in IMAGES[1:3]]
    with pytest.raises(queue.Full):
        server.submit(IMAGES[3])
    watched.free.set()
    assert all(future.result(30).shape == (4,) for future in waiting)


def test_requests_over_http(serve, network):
    session, expected = network
    watched = Watched(session)
    server = serve.Server(watched, batch_size=4)
    with http.server.ThreadingHTTPServer(("localhost", 0), serve.handler(server)) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        body = io.BytesIO()
        np.save(body, IMAGES)
        status, outputs = post(listening.server_port, body.getvalue())
        assert status == 200
        np.testing.assert_allclose(outputs, expected, atol=1e-4)
        np.savez(archive := io.BytesIO(), IMAGES)
        np.save(number := io.BytesIO(), 1.0)
        largest, unread = header(f"({10**15}, 8, 8, 1)"), header("(")
        for wrong in (b"", b"images", body.getvalue()[:200], archive.getvalue(), number.getvalue(), largest, unread):
            status, message = post(listening.server_port, wrong)
            assert status == 400
            assert "in NumPy's format" in message
        for length in ("many", "-1", str(10**15), str(10**30)):
            status, message = post(listening.server_port, b"", {"Content-Length": length})
            assert status == 400
            assert "in NumPy's format" in message
        np.save(other := io.BytesIO(), IMAGES[:, :4])
        status, message = post(listening.server_port, other.getvalue())
        assert status == 400
        assert "must have the shape (8, 8, 1)" in message
        watched.fails = True
        assert post(listening.server_port, body.getvalue()) == (500, "The network failed: out of memory")
        listening.shutdown()


def header(shape):
    """The beginning of a file in NumPy's format, with that shape of its array, and nothing after it."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def post(port, body, headers=None):
    connection = http.client.HTTPConnection("localhost", port, timeout=30)
    connection.request("POST", "/", body, headers or {})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_a_port_that_is_taken_ends_the_server_in_one_line(serve, model, tmp_path, capsys):
    session_of(serve, model, tmp_path)
    settings = {"network": str(tmp_path / "network.onnx"), "measure": None, "batch_size": 4}
    with http.server.HTTPServer(("localhost", 0), http.server.BaseHTTPRequestHandler) as taken:
        for port in (taken.server_port, 70_000):
            with pytest.raises(SystemExit, match=f"^serve.py: error: --port {port}: "):
                serve.main(argparse.Namespace(**settings, port=port))
    assert not capsys.readouterr().out  # nothing is served there


def test_the_port_is_told_once_it_is_served_and_nothing_is_measured(serve, model, tmp_path, monkeypatch, capsys):
    session_of(serve, model, tmp_path)
    ports = []
    monkeypatch.setattr(
        http.server.ThreadingHTTPServer, "serve_forever", lambda listening: ports.append(listening.server_port)
    )
    monkeypatch.setattr(serve, "exported", lambda _: pytest.fail("a network was measured"))
    settings = {"network": str(tmp_path / "network.onnx"), "measure": None, "batch_size": 4}
    serve.main(argparse.Namespace(**settings, port=0))
    assert ports[0] > 0
    assert capsys.readouterr().out.endswith(f"http://localhost:{ports[0]}\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--measure", "0.001"], "--measure times --rate must be at least 1, a request. Received: 0.001 times 300"),
        (["--measure", "nan"], "--measure must be above 0 and finite, received nan"),
        (["--measure", "10", "--rate", "inf"], "--rate must be above 0 and finite, received inf"),
        (["--measure", "10", "--network", __file__], "networks of the package: give it without --network"),
    ],
)
def test_flags_that_make_no_sense_are_refused(serve, monkeypatch, capsys, flags, message):
    monkeypatch.setattr("sys.argv", ["serve.py", *flags])
    with pytest.raises(SystemExit) as stopped:
        serve.flags()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_what_is_measured_is_what_was_answered(serve, network):
    server = serve.Server(network[0], batch_size=4)
    figures = serve.measure(server, IMAGES, rate=200, seconds=0.5)
    assert figures["refused"] == 0
    assert 0 < figures["p50 ms"] <= figures["p99 ms"]
    assert 0 < figures["answers/s"] <= 2 * 200


def test_failures_are_not_measured_as_answers(serve, network):
    watched = Watched(network[0])
    watched.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        serve.measure(serve.Server(watched, batch_size=4), IMAGES, rate=200, seconds=0.1)
