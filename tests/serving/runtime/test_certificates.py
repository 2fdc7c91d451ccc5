# SPDX-License-Identifier: Apache-2.0
"""TLS on both ports: the certificates of clients, and files that are replaced."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inkling.errors import InvalidRequest
from inkling_serving.security import CertificateFiles
from inkling_serving.settings import Settings
from tests.support.gateway_process import Killable, workers_of
from tests.support.machine import until, within

_HOST = "127.0.0.1"
_CHECK = health_pb2.HealthCheckRequest(service="")
# The gateway looks at its files once a second.
_SOON_S = 3.0


class Files:
    """The files of a gateway, as Kubernetes mounts them: links to links to folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.certificate, self.key, self.client_ca = (
            folder / name for name in ("tls.crt", "tls.key", "ca.crt")
        )
        for link in (self.certificate, self.key, self.client_ca):
            link.symlink_to(Path("..data") / link.name)

    def swap(self, pair: trustme.LeafCert, clients: trustme.CA) -> None:
        """Replace all files by one rename of a link, as Kubernetes does."""
        self.count += 1
        made = self.folder / f"..{self.count}"
        made.mkdir()
        (made / "tls.crt").write_bytes(pair.cert_chain_pems[0].bytes())
        (made / "tls.key").write_bytes(pair.private_key_pem.bytes())
        (made / "ca.crt").write_bytes(clients.cert_pem.bytes())
        (self.folder / "..new").symlink_to(made.name)
        (self.folder / "..new").rename(self.folder / "..data")

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            *("--tls-certificate", str(self.certificate)),
            *("--tls-key", str(self.key)),
            *("--tls-client-ca", str(self.client_ca)),
        )


class Client:
    """Asks over both ports, each time on a new connection."""

    def __init__(
        self, gateway: Any, server: trustme.CA, certificate: trustme.LeafCert | None
    ) -> None:
        """Believe certificates of `server`, and show `certificate` where asked."""
        self._gateway = gateway
        self.context = ssl.create_default_context()
        server.configure_trust(self.context)
        pair: dict[str, bytes] = {}
        if certificate is not None:
            certificate.configure_cert(self.context)
            pair = {
                "private_key": certificate.private_key_pem.bytes(),
                "certificate_chain": certificate.cert_chain_pems[0].bytes(),
            }
        self._credentials = grpc.ssl_channel_credentials(
            root_certificates=server.cert_pem.bytes(), **pair
        )

    def http(self) -> bool:
        """Return whether the HTTP port answers."""
        connection = http.client.HTTPSConnection(
            _HOST, self._gateway.port, timeout=10, context=self.context
        )
        try:
            connection.request("GET", "/v1/models")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def grpc(self) -> bool:
        """Return whether the gRPC port answers."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        target = self._gateway.grpc_target
        with grpc.secure_channel(target, self._credentials, options) as channel:
            try:
                health_pb2_grpc.HealthStub(channel).Check(_CHECK, timeout=10)
            except grpc.RpcError:
                return False
        return True

    def both(self) -> tuple[bool, bool]:
        """Return whether each port answers."""
        return self.http(), self.grpc()


class Secured:
    """A gateway with a certificate that asks clients for theirs."""

    def __init__(self, gateway: Any, files: Files, log: Path) -> None:
        self.gateway, self.files, self.log = gateway, files, log
        self.renew()

    def renew(self) -> None:
        """Replace server, client and both authorities, and wait for the gateway."""
        self.server, self.clients = trustme.CA(), trustme.CA()
        self.mine = self.clients.issue_cert("me")
        self.files.swap(self.server.issue_cert(_HOST), self.clients)
        within(until(lambda: self.client().both() == (True, True)), _SOON_S)

    def client(self, certificate: trustme.LeafCert | None = None) -> Client:
        """Return a client that shows a certificate; by default the right one."""
        return Client(self.gateway, self.server, certificate or self.mine)

    @contextmanager
    def asked_all_the_time(self, *servers: trustme.CA) -> Iterator[list[bool]]:
        """Ask over both ports in the background; yield whether each was answered.

        A client that believes one of the servers' authorities is enough.
        """
        answers: list[bool] = []
        stop = threading.Event()
        clients = [Client(self.gateway, server, self.mine) for server in servers]

        def ask(port: str) -> None:
            while not stop.is_set():
                answers.append(any(getattr(one, port)() for one in clients))

        threads = [threading.Thread(target=ask, args=(p,)) for p in ("http", "grpc")]
        for thread in threads:
            thread.start()
        yield answers
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def secured(
    published: Path,
    serve_gateway: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    """A gateway over the trained models with TLS and an authority of clients."""
    folder = tmp_path_factory.mktemp("secured")
    (folder / "mount").mkdir()
    files, log = Files(folder / "mount"), folder / "log"
    files.swap(trustme.CA().issue_cert(_HOST), trustme.CA())
    with serve_gateway(published, *files.flags, log=log) as gateway:
        yield Secured(gateway, files, log)


def test_clients_show_a_certificate_of_the_authority(secured: Secured) -> None:
    """Without a certificate, or with one of another authority, neither port answers."""
    stranger = trustme.CA().issue_cert("me")

    assert (True, True) == secured.client().both()
    assert (False, False) == Client(secured.gateway, secured.server, None).both()
    assert (False, False) == secured.client(stranger).both()


def test_a_pair_is_replaced_file_by_file(secured: Secured) -> None:
    """Certificate first, key half a second later: no request fails, both are used."""
    new = trustme.CA()
    pair = new.issue_cert(_HOST)
    with secured.asked_all_the_time(secured.server, new) as answers:
        secured.files.certificate.write_bytes(pair.cert_chain_pems[0].bytes())
        time.sleep(0.5)
        secured.files.key.write_bytes(pair.private_key_pem.bytes())
        client = Client(secured.gateway, new, secured.mine)
        took = until(lambda: client.both() == (True, True))
        time.sleep(0.2)

    assert len(answers) > 20
    assert all(answers)
    assert (False, False) == secured.client().both()
    within(took, _SOON_S)
    secured.renew()


def test_all_files_are_replaced_by_one_rename(secured: Secured) -> None:
    """A link that points elsewhere is noticed on both ports, and no request fails."""
    new = trustme.CA()
    with secured.asked_all_the_time(secured.server, new) as answers:
        secured.files.swap(new.issue_cert(_HOST), secured.clients)
        client = Client(secured.gateway, new, secured.mine)
        took = until(lambda: client.both() == (True, True))

    assert all(answers)
    within(took, _SOON_S)
    secured.renew()


def test_a_bad_pair_is_said_once_and_not_used(secured: Secured) -> None:
    """Files that do not belong together change nothing, and one line for each port."""
    said = secured.log.read_text().count("cannot be used")
    before = secured.client()
    strange = trustme.CA().issue_cert(_HOST)
    secured.files.key.write_bytes(strange.private_key_pem.bytes())
    until(lambda: secured.log.read_text().count("cannot be used") > said)
    for _ in range(3):
        assert (True, True) == before.both()
        time.sleep(0.5)

    assert said + 2 == secured.log.read_text().count("cannot be used")
    secured.renew()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(None, id="gone"),
        pytest.param(b"hello", id="text", marks=pytest.mark.soak),
    ],
)
def test_a_file_that_is_no_certificate_changes_nothing(
    secured: Secured, content: bytes | None
) -> None:
    """An empty, wrong or missing file is passed over on both ports."""
    said = secured.log.read_text().count("cannot be used")
    if content is None:
        secured.files.certificate.resolve().unlink()
    else:
        secured.files.certificate.write_bytes(content)
    until(lambda: secured.log.read_text().count("cannot be used") > said)

    assert (True, True) == secured.client().both()
    secured.renew()


def test_an_authority_that_was_replaced_is_trusted_no_more(secured: Secured) -> None:
    """After a new authority of clients, certificates of the old one open neither port."""
    old = secured.mine
    new = trustme.CA()
    secured.files.client_ca.write_bytes(new.cert_pem.bytes())
    took = until(lambda: secured.client(new.issue_cert("me")).both() == (True, True))

    assert (False, False) == secured.client(old).both()
    within(took, _SOON_S)
    secured.renew()


def test_no_session_outlives_its_authority(secured: Secured) -> None:
    """A session could be resumed without a certificate, so none is handed out."""
    context = secured.client().context

    def session() -> ssl.SSLSession | None:
        plain = socket.create_connection((_HOST, secured.gateway.port), 10)
        with context.wrap_socket(plain, server_hostname=_HOST) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            return connection.session

    found = session()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    assert found is None or not found.has_ticket
    with pytest.raises(OSError, match="EOF|alert|reset"):
        session()


def test_a_replaced_worker_takes_the_pair_of_the_others(
    killable: Callable[..., Killable], tmp_path: Path
) -> None:
    """Bad files at the moment when a worker ends: the next one has the last good pair."""
    server, clients = trustme.CA(), trustme.CA()
    files = Files(tmp_path)
    files.swap(server.issue_cert(_HOST), clients)
    gateway = killable("--workers", "2", *files.flags).start()
    until(lambda: gateway.log.read_text().count("startup complete") == 2)
    assert gateway.process
    files.key.unlink()
    files.certificate.unlink()
    files.certificate.write_text("no certificate")
    until(lambda: gateway.log.read_text().count("cannot be used yet") >= 3)
    before = workers_of(gateway.process.pid)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: gateway.log.read_text().count("startup complete") == 3)
    address = SimpleNamespace(port=gateway.port, grpc_target=gateway.target)
    client = Client(address, server, clients.issue_cert("me"))

    assert [(True, True)] * 10 == [client.both() for _ in range(10)]
    assert len(workers_of(gateway.process.pid)) == 2
    assert gateway.end(signal.SIGTERM) == 0
    assert "Traceback" not in gateway.log.read_text()


def test_permissions_that_come_later_are_noticed(tmp_path: Path) -> None:
    """Files that could not be read are looked at again once their mode has changed."""
    authority = trustme.CA()
    files = Files(tmp_path)
    files.swap(authority.issue_cert(_HOST), authority)
    names = ("tls_certificate", "tls_key", "tls_client_ca")
    paths = dict(zip(names, files.flags[1::2], strict=True))
    watched = CertificateFiles(Settings(**paths))

    assert watched.renewed() is None
    os.chmod(files.key, 0o400)
    assert watched.renewed() is not None
    assert watched.renewed() is None


def test_a_key_with_a_password_is_refused_without_a_question(tmp_path: Path) -> None:
    """Nobody is there to type it; OpenSSL would ask at the terminal, and wait."""
    from cryptography.hazmat.primitives import serialization as forms

    from inkling_serving.security import check_security

    pair = trustme.CA().issue_cert(_HOST)
    key = forms.load_pem_private_key(pair.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        forms.Encoding.PEM,
        forms.PrivateFormat.PKCS8,
        forms.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "key").write_bytes(locked)
    (tmp_path / "crt").write_bytes(pair.cert_chain_pems[0].bytes())
    settings = Settings(
        tls_certificate=str(tmp_path / "crt"), tls_key=str(tmp_path / "key")
    )

    with pytest.raises(InvalidRequest, match="without a password"):
        check_security(settings)
