# SPDX-License-Identifier: Apache-2.0
"""TLS to TensorFlow Serving, from the settings to the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from benchmarks.peers.timed_engine import TimedEngine
from inkling.errors import InvalidRequest, NotReady
from inkling_serving.engines.credentials import engine_credentials
from inkling_serving.engines.tensorflow_serving import TensorFlowServingEngine
from inkling_serving.security import check_security
from inkling_serving.settings import Settings
from tests.support.machine import until

_PREFIX = "tensorflow_serving_"
_NAMES = ("root_certificates", "certificate", "key")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Whoever signed the certificates."""
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each setting, and some that fit none."""
    folder = tmp_path_factory.mktemp("credentials")
    own = authority.issue_cert("gateway.test")
    authority.cert_pem.write_to_path(folder / "root_certificates")
    own.cert_chain_pems[0].write_to_path(folder / "certificate")
    own.private_key_pem.write_to_path(folder / "key")
    other = authority.issue_cert("other.test")
    other.private_key_pem.write_to_path(folder / "another key")
    (folder / "nonsense").write_text("nonsense")
    (folder / "empty").write_text("")
    return folder


def _settings(files: Path, **names: str) -> Settings:
    paths = {_PREFIX + setting: str(files / name) for setting, name in names.items()}
    return Settings(engine="tensorflow_serving", served_models="mlp", **paths)


def _named(*names: str, **others: str) -> dict[str, str]:
    """Each setting and its own file, but for those that have another."""
    return {**{name: name for name in names}, **others}


_WRONG: dict[str, tuple[dict[str, str], str]] = {
    "no such file": ({"root_certificates": "absent"}, "ROOT_CERTIFICATES.*readable"),
    "a folder": ({"root_certificates": "."}, "ROOT_CERTIFICATES.*readable"),
    "nonsense": ({"root_certificates": "nonsense"}, "ROOT_CERTIFICATES.*PEM"),
    "empty": ({"root_certificates": "empty"}, "ROOT_CERTIFICATES.*PEM"),
    "a key": ({"root_certificates": "key"}, "ROOT_CERTIFICATES.*PEM"),
    "no key": (_named("root_certificates", "certificate"), "KEY go together"),
    "no certificate": (_named("root_certificates", "key"), "KEY go together"),
    "no authorities": (_named("certificate", "key"), "CERTIFICATE needs .*ROOT_CERT"),
    "another key": (
        _named(*_NAMES, key="another key"),
        "KEY must be .*belong together",
    ),
    "no such key": (_named(*_NAMES, key="absent"), "KEY must be .*belong together"),
    "nonsense as a key": (
        _named(*_NAMES, key="nonsense"),
        "KEY must be .*belong together",
    ),
}


@pytest.mark.parametrize("case", _WRONG)
def test_files_that_cannot_be_used_stop_the_start(case: str, files: Path) -> None:
    """Each is named before anything starts, by the setting that it was given for."""
    names, words = _WRONG[case]
    with pytest.raises(InvalidRequest, match=f"INKLING_TENSORFLOW_SERVING_{words}"):
        check_security(_settings(files, **names))


def test_a_key_with_a_password_stops_the_start(files: Path, tmp_path: Path) -> None:
    """It cannot be used, and nobody is asked for the password on the terminal."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((files / "key").read_bytes(), None)
    locked = tmp_path / "locked"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    certificate = str(files / "certificate")
    for settings in (
        _settings(files, **_named(*_NAMES, key=str(locked))),
        Settings(tls_certificate=certificate, tls_key=str(locked)),
    ):
        with pytest.raises(InvalidRequest, match="without a password"):
            check_security(settings)


def test_without_the_settings_nothing_is_encrypted(files: Path) -> None:
    """The files are asked for by name only."""
    assert engine_credentials(_settings(files)) is None
    assert engine_credentials(_settings(files, **_named(*_NAMES))) is not None


@pytest.mark.parametrize("mutual", [False, True])
def test_the_engine_is_reached_over_tls(
    mutual: bool, authority: trustme.CA, files: Path
) -> None:
    """Status, contract and scores come encrypted; a gateway in the clear gets nothing."""
    issued = authority.issue_cert("127.0.0.1")
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    credentials: Any = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), chain)],
        authority.cert_pem.bytes() if mutual else None,
        require_client_auth=mutual,
    )
    server = TimedEngine(credentials=credentials)
    address = f"127.0.0.1:{server.port}"
    names = _named(*_NAMES) if mutual else _named("root_certificates")
    found = _settings(files, **names)
    encrypted = TensorFlowServingEngine(
        Settings(**{**vars(found), "tensorflow_serving": address})
    )
    in_the_clear = TensorFlowServingEngine(
        Settings(**{**vars(_settings(files)), "tensorflow_serving": address})
    )
    try:
        until(lambda: encrypted.status()[0].ready)
        scores = encrypted.select("mlp").predict(np.zeros((2, 28, 28, 1), np.float32))
        with pytest.raises(NotReady):
            in_the_clear.select("mlp")
    finally:
        encrypted.close()
        in_the_clear.close()
        server.stop()

    assert (2, 10) == scores.shape
    assert server.counts.pictures == 2
