"""The Open Inference Protocol, spoken by NVIDIA's own client."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.servers import running
from tests.support import TinyModel
from tlp_runtime import Synthesizer
from tlp_runtime.engines.onnx import OnnxEngine
from tlp_runtime.spec.model import ModelSpec

CROP = (192, 160)


@pytest.fixture(scope="module")
def address(tiny: TinyModel) -> Iterator[str]:
    with running(OnnxEngine(tiny.bundle, threads=1)) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        yield client


def tensors(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (count, 1, *CROP)
    return {
        "t1": rng.uniform(-1, 1, shape).astype(np.float32),
        "prompt": rng.choice([0, 0.5, 1], shape).astype(np.float32),
    }


def expected(tiny: TinyModel, given: dict[str, np.ndarray]) -> np.ndarray:
    with Synthesizer(OnnxEngine(tiny.bundle, threads=1)) as synthesizer:
        return synthesizer.run_slices({name: array[:, 0] for name, array in given.items()})[:, None]


def inputs(given: dict[str, np.ndarray], *, binary: bool = True) -> list[triton.InferInput]:
    made = []
    for name, array in given.items():
        tensor = triton.InferInput(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


def test_health_and_metadata(client: triton.InferenceServerClient, tiny: TinyModel) -> None:
    name = tiny.bundle.name
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    assert client.is_model_ready(name, "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    for version in ("", "1"):
        metadata = client.get_model_metadata(name, version)
        assert metadata["versions"] == ["1"]
        assert {tensor["name"] for tensor in metadata["inputs"]} == {"t1", "prompt"}
        (output,) = metadata["outputs"]
        assert output == {"name": "t1ce", "datatype": "FP32", "shape": [-1, 1, *CROP]}
        spec = ModelSpec.from_json(metadata["parameters"]["tlp.spec"])
        assert spec == tiny.bundle.spec


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 6])
def test_inference_in_binary_and_json(
    client: triton.InferenceServerClient, tiny: TinyModel, binary: bool, count: int
) -> None:
    given = tensors(count)
    outputs = [triton.InferRequestedOutput("t1ce", binary_data=binary)]
    answer = client.infer(
        tiny.bundle.name, inputs(given, binary=binary), outputs=outputs, request_id="seven"
    )
    np.testing.assert_array_equal(answer.as_numpy("t1ce"), expected(tiny, given))
    assert answer.get_response()["id"] == "seven"


def test_inference_with_what_the_client_does_by_default(
    client: triton.InferenceServerClient, tiny: TinyModel
) -> None:
    given = tensors(2)
    for options in (
        {},
        {"model_version": "1"},
        {"request_compression_algorithm": "gzip"},
        {"request_compression_algorithm": "deflate"},
        {"response_compression_algorithm": "gzip"},
    ):
        answer = client.infer(tiny.bundle.name, inputs(given), **options)
        np.testing.assert_array_equal(answer.as_numpy("t1ce"), expected(tiny, given))


def test_requests_side_by_side_get_their_own_answers(address: str, tiny: TinyModel) -> None:
    wrong: list[int] = []

    def ask(seed: int) -> None:
        with triton.InferenceServerClient(address.removeprefix("http://")) as client:
            for n in range(3):
                given = tensors(1 + n, seed * 10 + n)
                made = client.infer(tiny.bundle.name, inputs(given)).as_numpy("t1ce")
                if not np.array_equal(made, results[seed * 10 + n]):
                    wrong.append(seed)

    results = {
        s * 10 + n: expected(tiny, tensors(1 + n, s * 10 + n)) for s in range(4) for n in range(3)
    }
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_the_client_is_told_what_is_wrong(
    client: triton.InferenceServerClient, tiny: TinyModel
) -> None:
    name, good = tiny.bundle.name, tensors(1)
    other = {key: array[..., :80] for key, array in good.items()}
    nan = good | {"t1": np.full_like(good["t1"], np.nan)}
    for given, message in (
        ({"t1": good["t1"]}, "expected \\['prompt', 't1'\\]"),
        (good | {"t2": good["t1"]}, "expected \\['prompt', 't1'\\]"),
        (good | {"t1": tensors(2)["t1"]}, "the same for each"),
        (other, "expected \\(192, 160\\)"),
        (nan, "NaN or infinite"),
    ):
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer(name, inputs(given))
        assert caught.value.status() == "400"
    half = triton.InferInput("t1", [1, 1, *CROP], "FP16")
    half.set_data_from_numpy(np.zeros((1, 1, *CROP), np.float16))
    with pytest.raises(InferenceServerException, match="FP16, expected FP32"):
        client.infer(name, [half])
    with pytest.raises(InferenceServerException, match="one output, t1ce"):
        client.infer(name, inputs(good), outputs=[triton.InferRequestedOutput("t2")])
    for call in (client.get_model_metadata, lambda n: client.infer(n, inputs(good))):
        with pytest.raises(InferenceServerException, match="there is no model other"):
            call("other")
    with pytest.raises(InferenceServerException, match="version 2"):
        client.infer(name, inputs(good), model_version="2")
    assert not client.is_model_ready("other")


ONE = {"name": "t1", "datatype": "FP32", "shape": [1, 1, 1, 1], "data": [0]}
OTHER = ONE | {"name": "prompt"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"[]", "list of inputs"),
        ({"inputs": {}}, "list of inputs"),
        ({"inputs": [1]}, "is an object"),
        ({"inputs": [{}]}, "name is missing"),
        ({"inputs": [ONE, ONE]}, "given twice"),
        ({"inputs": [ONE | {"shape": [-1]}]}, "expected a shape"),
        ({"inputs": [ONE | {"shape": [True]}]}, "expected a shape"),
        ({"inputs": [ONE | {"shape": [2**62] * 8}]}, "expected a shape"),
        ({"inputs": [ONE | {"shape": [10**4000]}]}, "expected a shape"),
        ({"inputs": [ONE | {"shape": [65536] * 8}]}, "1 values for a shape"),
        ({"inputs": [ONE | {"data": ["x"]}]}, "not an array of numbers"),
        ({"inputs": [ONE | {"data": ["1"]}]}, "not an array of numbers"),
        ({"inputs": [ONE | {"data": [True]}]}, "not an array of numbers"),
        ({"inputs": [ONE | {"data": [[True]]}]}, "not an array of numbers"),
        ({"inputs": [ONE | {"data": [1, [1]]}]}, "not an array of numbers"),
        ({"inputs": [ONE | {"data": [[1], [1, 2]]}]}, "different lengths"),
        ({"inputs": [ONE | {"data": [[0]]}]}, "not nested as its shape"),
        ({"inputs": [ONE | {"data": [10**400]}]}, "too large"),
        (b'{"inputs": [], "x": NaN}', "NaN"),
        (b'{"inputs": [], "id": NaN}', "NaN"),
        ({"inputs": [], "id": 1}, "id is missing or is not a string"),
        ({"inputs": [], "id": "\ud800"}, "id is not text"),
        ({"inputs": [ONE | {"name": "\udfff"}]}, "name is not text"),
        ({"inputs": [ONE | {"data": None}]}, "not an array of numbers"),
        ({"inputs": [ONE | {"parameters": {"binary_data_size": 4}}]}, "0 bytes that are left"),
        ({"inputs": [ONE | {"parameters": {"binary_data_size": 4.0}}]}, "binary_data_size"),
        ({"inputs": [ONE | {"parameters": {"binary_data_size": "4"}}]}, "binary_data_size"),
        ({"inputs": [ONE | {"parameters": [4]}]}, "not an object"),
        ({"inputs": [ONE, OTHER], "outputs": 1}, "not a list"),
        (
            {"inputs": [ONE, OTHER], "outputs": [{"name": "t1ce", "parameters": 1}]},
            "not an object",
        ),
        (
            {
                "inputs": [ONE, OTHER],
                "outputs": [{"name": "t1ce", "parameters": {"classification": 1}}],
            },
            "classification",
        ),
        ({"inputs": [ONE, OTHER], "parameters": {"binary_data_output": "no"}}, "neither true"),
        ({"inputs": [ONE, OTHER], "parameters": 1}, "not an object"),
        ({"inputs": [ONE, OTHER]}, "expected (192, 160)"),
    ],
)
def test_what_is_not_the_protocol_is_refused(
    address: str, tiny: TinyModel, body: bytes | dict[str, Any], message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{address}/v2/models/{tiny.bundle.name}/infer", content=content)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]


def test_values_that_no_prepared_slice_has_are_refused(address: str, tiny: TinyModel) -> None:
    """A scan that was not scaled, or a label map as the prompt, would give an image too."""
    name, good = tiny.bundle.name, tensors(1)
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        for wrong, message in (
            ({"t1": good["t1"] * 500}, "t1 holds values from -.* lie between -1 and 1"),
            ({"t1": good["t1"] + 0.01}, "t1 holds values"),
            ({"prompt": good["prompt"] * 4}, "prompt holds .* lie between 0 and 1"),
            ({"prompt": -good["prompt"]}, "prompt holds values"),
        ):
            with pytest.raises(InferenceServerException, match=message) as caught:
                client.infer(name, inputs(good | wrong))
            assert caught.value.status() == "400"
        client.infer(name, inputs(good | {"t1": good["t1"] * np.float32(1.0000005)}))


def test_json_that_takes_long_to_take_apart_is_refused_first(address: str, tiny: TinyModel) -> None:
    """Python's parser holds everybody up while it runs."""
    path = f"{address}/v2/models/{tiny.bundle.name}/infer"
    for content, message in (
        (b'{"inputs": [' + b"[]," * 100_000 + b"[]]}", "lists and objects"),
        (b'{"inputs": [' + b"{}," * 100_000 + b"{}]}", "lists and objects"),
        (b'{"inputs": [' + b"0," * (5 << 20) + b"0]}", "are allowed"),
    ):
        for body, headers in (
            (content, {}),
            (gzip.compress(content, 1), {"content-encoding": "gzip"}),
            (zlib.compress(content, 1), {"content-encoding": "deflate"}),
        ):
            answer = httpx.post(path, content=body, headers=headers)
            assert answer.status_code == 413, answer.text
            assert message in answer.json()["error"]


@pytest.mark.parametrize("length", ["x", "-1", "99999", "9" * 30])
def test_a_header_that_splits_the_body_elsewhere_is_refused(
    address: str, tiny: TinyModel, length: str
) -> None:
    answer = httpx.post(
        f"{address}/v2/models/{tiny.bundle.name}/infer",
        content=b"{}",
        headers={"Inference-Header-Content-Length": length},
    )
    assert answer.status_code == 400
    assert "the body holds 2 bytes" in answer.json()["error"]
