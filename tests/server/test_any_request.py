"""schemathesis over the server's own description: whatever is sent, the answer is described."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.servers import Page

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = 20
"""Methods of paths that the description must name."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("examples", [8, pytest.param(400, marks=pytest.mark.proof)])
def test_no_request_of_any_form_breaks_the_server(
    http: httpx.Client, server: str, examples: int
) -> None:
    """A few of each kind, the same in every run; the long proof draws others each time."""
    page = Page.open(http, t1="t1.nii")
    chosen = settings(
        max_examples=examples,
        derandomize=examples < 100,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    description = schemathesis.openapi.from_url(f"{server}/api/openapi.json")
    statuses: dict[str, set[int]] = {}
    rng = random.Random(0)

    def ask(operation: Any, mode: GenerationMode) -> None:
        @chosen
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            if "session_id" in case.path_parameters and case.method != "DELETE":
                case.path_parameters["session_id"] = page.info["id"]
            if "name" in case.path_parameters and "/v2/" in case.path:
                case.path_parameters["name"] = "fake"
                if "number" in case.path_parameters:
                    case.path_parameters["number"] = rng.choice(["1", "2"])
            answer = case.call(timeout=60)
            case.validate_response(answer, checks=CHECKS)
            statuses.setdefault(operation.label, set()).add(answer.status_code)

        one()

    operations: list[Any] = list(description.get_all_operations())
    for operation in (result.ok() for result in operations):
        ask(operation, GenerationMode.POSITIVE)
        with contextlib.suppress(Unsatisfiable):  # nothing in it could be wrong
            ask(operation, GenerationMode.NEGATIVE)
    assert len(statuses) == OPERATIONS
    reached = {label for label, seen in statuses.items() if seen & {200, 201, 204}}
    assert len(reached) > OPERATIONS / 2, statuses


def test_the_description_has_what_a_client_is_made_from(server: str) -> None:
    """Who may ask, what may be answered, what it looks like, and what a frame is."""
    described = httpx.get(f"{server}/api/openapi.json").json()
    (scheme,) = described["components"]["securitySchemes"].items()
    assert scheme[1]["type"] == "http"
    assert scheme[1]["scheme"] == "bearer"
    schemas = described["components"]["schemas"]
    assert {"serial", "slices", "images", "bytes", "state"} <= set(
        schemas["FrameHeader"]["properties"]
    )
    examples = [one for one in schemas.values() if '"examples"' in json.dumps(one)]
    assert len(examples) > 8
    errors = {"400", "401", "403", "404", "408", "413", "421", "422", "429", "500", "503"}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert errors <= set(operation["responses"]), where
            guarded = not path.startswith("/v2/health")
            assert bool(operation.get("security")) == guarded, where
            for status in errors:
                content = operation["responses"][status]["content"]["application/json"]
                kind = "ProtocolFailure" if path.startswith("/v2") else "Failure"
                if status != "422" or path.startswith("/api"):
                    assert content["schema"]["$ref"].endswith(f"/{kind}"), where
    stroke = described["paths"]["/api/sessions/{session_id}/strokes"]["post"]
    assert "FrameHeader" in stroke["responses"]["200"]["description"]
    infer = described["paths"]["/v2/models/{name}/infer"]["post"]
    assert "example" in infer["requestBody"]["content"]["application/json"]
