"""From a stroke to the slice it changed: over HTTP, as the viewer's page asks, and by files.

    tlp phantom --out phantom-1 --cases 1 --seed 7
    python -m benchmarks.viewer --t1 phantom-1/BraTS2021_90000/BraTS2021_90000_t1.nii.gz \
        --json viewer.json

Contenders, in turns, on one case with the model loaded:

    one slice     over HTTP, a stroke of 12 x 12 voxels in the slice that is looked at
    nine slices   the same through nine slices
    whole volume  what a tool without a loop does at every stroke: the whole case anew, in memory

"server" is from the request's last byte to the frame with the visible slice, by the server's clock,
and holds prompt, queue, engine and restore; "round trip" is the client's, loopback included; "last
slice" is the end of the answer. `--device cuda` for a GPU.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import threading
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import uvicorn

from tlp_runtime.bench import environment
from tlp_runtime.engines.base import Engine
from tlp_runtime.engines.select import choose
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.interactive.queue import EngineQueue
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.models.choice import find_bundle
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_server.app import create_app
from tlp_server.cases import ViewerCase, read_case
from tlp_server.run import listen
from tlp_server.settings import Settings

PARTS = ("prompt", "queue", "engine", "restore", "server")
SIDE = 12


@dataclass
class Client:
    """A page without a screen, on one connection."""

    host: str
    port: int

    def __post_init__(self) -> None:
        from http.client import HTTPConnection

        self._connection = HTTPConnection(self.host, self.port, timeout=600)
        self.revision = self.serial = 0

    def open(self) -> dict[str, Any]:
        self._connection.request(
            "POST", "/api/sessions", b"{}", {"Content-Type": "application/json"}
        )
        info: dict[str, Any] = json.loads(self._connection.getresponse().read())
        self.path = f"/api/sessions/{info['id']}"
        return info

    def stroke(
        self, start: tuple[int, int, int] | None, labels: np.ndarray, first: int
    ) -> list[tuple[float, dict[str, Any]]]:
        """Post one; (seconds since the call, header) of each frame."""
        began = time.perf_counter()
        query = {"since": self.serial, "first": first}
        body, headers = b"", {}
        if start is not None:
            self.revision += 1
            query |= dict(
                zip(("x", "y", "z", "nx", "ny", "nz"), (*start, *labels.shape), strict=True)
            )
            body = gzip.compress(labels.tobytes(order="F"), 1)
            headers = {"Content-Encoding": "gzip"}
        query["revision"] = self.revision
        self._connection.request("POST", f"{self.path}/strokes?{urlencode(query)}", body, headers)
        answer = self._connection.getresponse()
        frames = []
        while head := answer.read(4):
            header = json.loads(answer.read(int.from_bytes(head, "little")))
            answer.read(header["bytes"])
            frames.append((time.perf_counter() - began, header))
            self.serial = max(self.serial, header["serial"])
        return frames


def first_with(frames: list[tuple[float, dict[str, Any]]], z: int) -> tuple[float, dict[str, Any]]:
    """The frame that brings a slice."""
    return next((seconds, header) for seconds, header in frames if z in header["slices"])


def measure(engine: Engine, case: ViewerCase, strokes: int) -> dict[str, list[dict[str, float]]]:
    """All contenders, a stroke each in turn."""
    rows: dict[str, list[dict[str, float]]] = {
        "one slice": [],
        "nine slices": [],
        "whole volume": [],
    }
    synthesizer = Synthesizer(engine)
    with listen("127.0.0.1", 0) as listener, EngineQueue(engine, batch=4) as queue:
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(Settings(port=0, no_token=True), [queue], case),
                log_config=None,
                timeout_keep_alive=600,
            )
        )
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        client = Client("127.0.0.1", listener.getsockname()[1])
        info = client.open()
        client.stroke(None, np.empty(0), info["first"])
        rng = np.random.default_rng(0)
        x, y = (n // 2 - SIDE // 2 for n in info["shape"][:2])
        for number in range(strokes + 1):
            for name, depth in (("one slice", 1), ("nine slices", 9)):
                z = info["first"] - depth // 2
                labels = rng.integers(0, 3, (SIDE, SIDE, depth), dtype=np.uint8)
                frames = client.stroke((x, y, z), labels, info["first"])
                seconds, header = first_with(frames, info["first"])
                row = {"round trip": seconds} | {p: header["seconds"][p] for p in PARTS}
                rows[name].append(row | {"last slice": frames[-1][0]})
            mask = np.zeros(info["shape"], np.uint8, order="F")
            mask[x : x + SIDE, y : y + SIDE, info["first"]] = labels[:, :, 0]
            if number % 5 == 0:  # it takes long
                began = time.perf_counter()
                prompt = Volume(mask, np.array(info["affine"]))
                synthesizer.run(replace(case.prepared.request, prompt=Prompt(prompt)))
                rows["whole volume"].append({"round trip": time.perf_counter() - began})
        server.should_exit = True
        thread.join()
    return {name: row[1:] for name, row in rows.items()}  # the first of each warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--t1", type=Path)
    parser.add_argument("--t2", type=Path)
    parser.add_argument("--model", help="default: the default model")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--strokes", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    inputs = [name for name in ("t1", "t2") if getattr(options, name) is not None]
    bundle, _ = find_bundle(options.model, inputs)
    engine = choose(options.engine, options.device, bundle).open(bundle)
    images = {
        name: read_volume(path)
        for name, path in (("t1", options.t1), ("t2", options.t2))
        if path is not None
    }
    case = read_case("case", lambda: Request(images=images), bundle.spec)
    rows = measure(engine, case, options.strokes)
    result: dict[str, Any] = {}
    for name, strokes in rows.items():
        columns = {key: sorted(1e3 * row[key] for row in strokes) for key in strokes[0]}
        result[name] = {
            "strokes": len(strokes),
            "median_ms": {key: round(statistics.median(v), 2) for key, v in columns.items()},
            "p95_ms": {key: round(v[int(0.95 * (len(v) - 1))], 2) for key, v in columns.items()},
        }
    one, whole = (result[name]["median_ms"]["round trip"] for name in ("one slice", "whole volume"))
    result["whole volume over one slice"] = round(whole / one, 1)
    print(json.dumps(result, indent=2))
    if options.json is not None:
        library = f"{engine.name} on {engine.device}, {engine.library}, {bundle.name}"
        record = {
            "date": date.today().isoformat(),
            "machine": environment(library),
            "model": bundle.name,
            "precision": bundle.precision,
            "shape": list(next(iter(images.values())).shape),
            **result,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
