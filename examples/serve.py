"""Serves an exported network by ONNX Runtime: requests that come close together run as one batch.

    python examples/serve.py --measure 10                   # throughput and latency, static and routed, 10 s each
    python examples/serve.py --network network.onnx         # a server, http://localhost:8000
    curl --data-binary @images.npy http://localhost:8000    # an array of images, float32: their outputs, as JSON

A request waits in a queue for the network. As soon as that is free, it takes what has come in meanwhile, up to
`--batch-size` images: under a low load each image runs by itself, under a high one batches grow. Where the queue is
full, a request is refused at once (status 503) rather than late. For more than one process: docs/guides/serving.md.
"""
# ruff: noqa: E402 - flags are read first

import argparse
import concurrent.futures
import functools
import http.server
import io
import json
import math
import pathlib
import queue
import sys
import tempfile
import threading
import time


def flags() -> argparse.Namespace:
    """The command line's settings; a mistake ends the process with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, usage=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", type=pathlib.Path, help="the ONNX file to serve")
    parser.add_argument("--port", type=int, default=8000, help="of the server (default 8000)")
    parser.add_argument("--batch-size", type=int, default=32, help="most images that run together (default 32)")
    parser.add_argument("--measure", type=float, help="seconds of load for each network, instead of serving")
    parser.add_argument("--rate", type=float, default=300, help="requests a second while measuring (default 300)")
    settings = parser.parse_args()
    if settings.measure is not None and settings.network is not None:
        parser.error(f"--measure runs networks of the package: give it without --network {settings.network}")
    if settings.measure is None and (settings.network is None or not settings.network.is_file()):
        parser.error(f"--network must name an ONNX file, or --measure be given; received {settings.network}")
    for name in ("batch_size", "measure", "rate"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')} must be above 0 and finite, received {value}")
    if settings.measure is not None and settings.measure * settings.rate < 1:
        parser.error(
            f"--measure times --rate must be at least 1, a request. Received: {settings.measure} times {settings.rate}"
        )
    return settings


if __name__ == "__main__":
    settings = flags()  # before the next imports, which take seconds

sys.path.append(str(pathlib.Path(__file__).parents[1]))  # a clone that is not installed

import numpy as np
import onnxruntime

WAITING = 1024
"""Requests that may wait."""


class Server:
    """A network, and the queue in front of it.

    Args:
        session: The network, an `onnxruntime.InferenceSession`.
        batch_size: Integer, most images that run together; those of a file for one image run one by one.
    """

    def __init__(self, session: onnxruntime.InferenceSession, batch_size: int) -> None:
        count, *shape = session.get_inputs()[0].shape
        self.session, self.shape = session, tuple(shape)
        self.batch_size = count if isinstance(count, int) else batch_size
        self.waiting: queue.Queue = queue.Queue(WAITING)
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, image: np.ndarray) -> concurrent.futures.Future:
        """An image's outputs, once they are there.

        Raises:
            ValueError: the image is of another shape than the network's.
            queue.Full: too many requests wait.
        """
        if image.shape != self.shape:
            raise ValueError(f"An image must have the shape {self.shape}. Received: {image.shape}")
        outputs: concurrent.futures.Future = concurrent.futures.Future()
        self.waiting.put_nowait((image, outputs))
        return outputs

    def _run(self) -> None:
        while True:
            requests = [self.waiting.get()]
            while len(requests) < self.batch_size and not self.waiting.empty():
                requests.append(self.waiting.get())
            images, futures = zip(*requests, strict=True)
            try:
                results = self.session.run(["outputs"], {"images": np.stack(images)})[0]
            except Exception as error:  # the requests get it, and the next ones are still served
                for future in futures:
                    future.set_exception(error)
                continue
            for future, result in zip(futures, results, strict=True):
                future.set_result(result)


def handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    """What answers requests over HTTP: images in NumPy's format, outputs as JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Runs the images of a request."""
            status, content = answer(server, self.rfile, self.headers.get("Content-Length", "0"))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            """Says nothing: a line for each request costs more than a request."""

    return Handler


def answer(server: Server, stream: io.BufferedIOBase, length: str) -> tuple[int, object]:
    """The status of a request and what it gets: the outputs, or what went wrong."""
    try:
        if not length.isdecimal():  # to read -1 bytes would be to wait for the end of the connection
            raise ValueError(f"Content-Length must be its number of bytes. Received: {length}")
        body = io.BytesIO(stream.read(int(length)))
        images = np.lib.format.read_array(body, allow_pickle=False).astype("float32")
        outputs = [server.submit(image) for image in images]
    except queue.Full:
        return 503, f"At most {WAITING} images wait at a time: send fewer, or send them later"
    except Exception as error:  # NumPy has many for what is no array, and MemoryError for one that is too large
        return 400, f"The body must be an array of images in NumPy's format. {error}"
    try:
        return 200, [result.result().tolist() for result in outputs]
    except Exception as error:
        return 500, f"The network failed: {error}"


def measure(server: Server, images: np.ndarray, rate: float, seconds: float) -> dict[str, float]:
    """Requests that come at random times, `rate` a second on average, whatever the server does.

    Returns:
        Answers a second, the share that was refused, and the median and the 99th percentile of the latency, in ms.
    """
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    latencies: list[float] = []

    def note(due: float, _: concurrent.futures.Future) -> None:
        latencies.append(1000 * (time.perf_counter() - due))

    refused = 0
    answered = []
    start = time.perf_counter()
    for index, arrival in enumerate(arrivals):
        time.sleep(max(0.0, start + arrival - time.perf_counter()))
        try:
            future = server.submit(images[index % len(images)])
        except queue.Full:
            refused += 1
            continue
        due = start + arrival  # a request that is sent late has waited too
        future.add_done_callback(functools.partial(note, due))
        answered.append(future)
    for future in answered:
        future.result()  # raises what a batch failed with: that is no answer
    while len(latencies) < len(answered):  # callbacks come after what waits for a result
        time.sleep(0.001)
    median, most = np.percentile(latencies, [50, 99])
    taken = time.perf_counter() - start
    return {"answers/s": len(answered) / taken, "refused": refused / len(arrivals), "p50 ms": median, "p99 ms": most}


def exported(name: str) -> onnxruntime.InferenceSession:
    """A network of the package as ONNX Runtime runs it."""
    import reset_keras as rk

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.onnx"
        rk.inference.export(rk.inference.freeze(rk.models.from_preset(name)), path, "onnx")
        return onnxruntime.InferenceSession(path.read_bytes())


def main(settings: argparse.Namespace) -> None:
    """Measures, or serves until it is interrupted."""
    if settings.measure is None:
        server = Server(onnxruntime.InferenceSession(settings.network), settings.batch_size)
        try:
            listening = http.server.ThreadingHTTPServer(("localhost", settings.port), handler(server))
        except (OSError, OverflowError) as error:
            sys.exit(f"serve.py: error: --port {settings.port}: {error}")
        with listening:
            print(f"Serving {settings.network}: http://localhost:{listening.server_port}", flush=True)
            listening.serve_forever()
        return
    images = np.random.default_rng(0).normal(size=(256, 32, 32, 3)).astype("float32")
    for name in ("resnet38_cifar10", "reset38_efficient_cifar10"):
        server = Server(exported(name), settings.batch_size)
        figures = measure(server, images, settings.rate, settings.measure)
        print(name, *(f"{figure} {value:.2f}" for figure, value in figures.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main(settings)
