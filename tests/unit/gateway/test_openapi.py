"""The API's description against the routes and the table of problems."""

import re
from types import SimpleNamespace

from gateway.api.app import make_router
from gateway.api.openapi import DOCUMENT
from gateway.api.problems import TABLE


def routes() -> set[tuple[str, str]]:
    services = SimpleNamespace(registry=SimpleNamespace(functions={}))
    return {(route.method.lower(), route.path) for route in make_router(services, None).routes}


def test_every_route_is_described_and_nothing_else():
    described = {(method, path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert described == routes()


def test_path_parameters_are_declared():
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            declared = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))


def test_references_point_to_schemas():
    text = repr(DOCUMENT)
    found = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert found <= set(DOCUMENT["components"]["schemas"])


def test_operation_ids_are_unique():
    ids = [operation["operationId"] for item in DOCUMENT["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


def test_problem_words_and_statuses_are_sound():
    for word, (status, title) in TABLE.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", word)
        assert 400 <= status < 600
        assert title
