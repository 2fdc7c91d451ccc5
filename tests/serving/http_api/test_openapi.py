# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: valid, complete, and as the settings say."""

import ast
import inspect
import json
import re
import subprocess
import sys
from types import ModuleType
from typing import Any, get_type_hints

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from inkling.errors import ErrorCode
from inkling_serving.dialects.open_inference import rest_json as inference
from inkling_serving.dialects.tensorflow_serving import rest_json as serving
from inkling_serving.http_api.envelope.options import CLASSIFY, EXPLAIN
from inkling_serving.http_api.openapi import answers, requests
from inkling_serving.http_api.openapi.document import document
from inkling_serving.http_api.routes import ROUTES
from inkling_serving.settings import Settings

_MODULES = (answers, requests, serving, inference)


def _document(**settings: Any) -> dict[str, Any]:
    """Return the document as a client reads it."""
    made = json.loads(json.dumps(document(ROUTES, Settings(**settings))))
    assert isinstance(made, dict)
    return made


def _operations(shown: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in shown["paths"].items()
        for method, operation in item.items()
    }


@pytest.mark.parametrize("settings", [{}, {"api_key_file": "k", "tls_client_ca": "c"}])
def test_the_document_is_valid(settings: dict[str, Any]) -> None:
    """The document is one of OpenAPI 3.1, and all its references lead somewhere."""
    shown = _document(**settings)

    validate(shown, cls=OpenAPIV31SpecValidator)
    references = set(
        re.findall(r'"\$ref": "#/components/(\w+)/(\w[\w-]*)"', json.dumps(shown))
    )
    assert all(name in shown["components"][kind] for kind, name in references)
    named = {
        (kind, name) for kind, some in shown["components"].items() for name in some
    }
    assert {"securitySchemes", "headers"} >= {kind for kind, _ in named - references}


def test_a_document_that_is_wrong_is_refused() -> None:
    """The check above sees an operation without responses, and two of one name."""
    for change in ({"responses": 1}, {"operationId": "classify"}):
        shown = _document()
        shown["paths"]["/livez"]["get"] |= change
        with pytest.raises(Exception, match="not valid|unique|Duplicate|responses"):
            validate(shown, cls=OpenAPIV31SpecValidator)


def test_every_address_is_described() -> None:
    """The document has the addresses of the table and no others, and each name once."""
    found = _operations(_document())
    wanted = {(r.method, re.sub(r"<name:(\w+)>", r"{\1}", r.rule)) for r in ROUTES}
    names = [operation["operationId"] for operation in found.values()]

    assert wanted == set(found)
    assert len(names) == len(set(names)) == len(ROUTES)
    assert all(re.fullmatch(r"[a-z][A-Za-z]+", name) for name in names)
    assert all(operation["summary"].count(".") == 1 for operation in found.values())


def test_every_option_is_described() -> None:
    """The query of an address has the options that the address reads."""
    assert set(CLASSIFY) == set(get_type_hints(requests.ClassifyOptions))
    assert set(EXPLAIN) == set(get_type_hints(requests.ExplainOptions))
    found = _operations(_document())
    for (_, path), operation in found.items():
        given = {p["name"] for p in operation["parameters"] if p["in"] == "query"}
        known = {"classify": CLASSIFY, "explain": EXPLAIN}.get(path.rpartition(":")[2])
        assert set(known or ()) == given


def test_every_code_word_is_described() -> None:
    """Each code word is told with its meaning, in the form of our errors and of others'."""
    responses = _document(api_key_file="keys")["components"]["responses"]
    for others in (True, False):
        texts = [
            response["description"]
            for name, response in responses.items()
            if name.endswith("Message") is others
        ]
        for code in ErrorCode:
            assert any(f"`{code}`: " in text for text in texts), code
        assert not any(re.search(r"`: *($|\n)", text) for text in texts)


def test_the_settings_are_in_the_document() -> None:
    """The limits are told; a key or a certificate is asked for only where one is needed."""
    plain, keyed = _document(max_batch=5), _document(api_key_file="/secret/keys")
    certified = _document(tls_client_ca="ca.pem")

    kept = _document(device_files=False)["paths"]
    assert not [path for path in kept if "tflite" in path]
    assert "at most 5 pictures" in plain["info"]["description"]
    assert "securitySchemes" not in plain["components"]
    assert all("security" not in o for o in _operations(plain).values())
    assert all("401" not in o["responses"] for o in _operations(plain).values())
    assert "secret" not in json.dumps(keyed)
    [scheme] = keyed["components"]["securitySchemes"].values()
    assert ("http", "bearer") == (scheme["type"], scheme["scheme"])
    open_paths = {p for (_, p), o in _operations(keyed).items() if "security" not in o}
    assert open_paths == {
        *("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/openapi.json"),
    }
    assert open_paths == {
        p for (_, p), o in _operations(keyed).items() if "401" not in o["responses"]
    }
    assert {"clientCertificate"} == set(certified["components"]["securitySchemes"])
    assert all("security" in o for o in _operations(certified).values())


def test_addresses_are_relative() -> None:
    """The document names no host, so that it is right behind a proxy's path, too."""
    assert [{"url": "."}] == _document()["servers"]
    assert "http://" not in json.dumps(_document())


def _classes(module: ModuleType) -> set[str]:
    tree = ast.parse(inspect.getsource(module))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_types_have_names_of_their_own() -> None:
    """No two types would take the same name in the document, where one would be lost."""
    names = [name for module in _MODULES for name in _classes(module)]

    assert len(names) == len(set(names)) > 50


def test_the_document_is_always_the_same() -> None:
    """Processes with other hash seeds make the same bytes, so that clients can compare."""
    code = (
        "import sys, orjson; from inkling_serving.http_api import routes, openapi;"
        "from inkling_serving.settings import Settings;"
        "sys.stdout.buffer.write(routes._described(Settings()))"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert 1 == len(made)
    assert len(made.pop()) < 128 * 1024
