# SPDX-License-Identifier: Apache-2.0
"""Attacks on a gateway process, with clients beside them that behave.

Each attack says how much memory the process may have while it lasts; afterwards the
process comes back to what it had. Load goes to the loopback only.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support import healthy_clients
from tests.support.gateway_process import GatewayProcess, Running
from tests.support.http2_frames import (
    DATA,
    HEADERS,
    INITIAL_WINDOW,
    WINDOW_UPDATE,
    Connection,
    frame,
    head,
    literal,
    message,
)
from tests.support.machine import TooSlow, memory_bytes, until, within

_MIB = 2**20
_CLASSIFY = "/inkling.v1.Classifier/Classify"
_STREAM = "/inkling.v1.Classifier/ClassifyStream"
_CHECK = "/grpc.health.v1.Health/Check"
_WATCH = "/grpc.health.v1.Health/Watch"
_POST = b"POST /v1/models/mlp:classify HTTP/1.1\r\nHost: x\r\n"
_LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
_ROOM = (2**31 - 1 - 65_535).to_bytes(4, "big")
_MAX_MIB = 256
_P99_MS = 100


@pytest.fixture(scope="module")
def gateway_(
    published: Path,
    serve_gateway: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    """A gateway with the limits that it has by default, in one process."""
    log = tmp_path_factory.mktemp("attacks") / "log"
    with serve_gateway(published, log=log) as process:
        yield process


class Attacked:
    """That gateway, and clients beside each attack."""

    def __init__(self, gateway: GatewayProcess, picture: bytes) -> None:
        self.gateway, self.picture = gateway, picture
        self.port, self.grpc_port = gateway.port, gateway.grpc_port
        self.pid = gateway.process.pid

    def connect(self) -> socket.socket:
        """Connect to the HTTP port."""
        made = socket.create_connection(("127.0.0.1", self.port), 10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    @contextmanager
    def healthy(self, most_mib: float = _MAX_MIB) -> Iterator[None]:
        """Run clients beside an attack; check them and the memory of the gateway."""
        clients = self._clients()
        before = memory_bytes(self.pid)
        peak, over = [before], threading.Event()
        sampler = threading.Thread(target=self._sample, args=(peak, over))
        sampler.start()
        try:
            yield
        finally:
            over.set()
            sampler.join()
            said, _ = clients.communicate(timeout=60)
        print(f"\n{before / _MIB:.0f} MiB, at most {max(peak) / _MIB:.0f}; {said}")
        self._check(json.loads(said), before, max(peak), most_mib)

    def _clients(self) -> subprocess.Popen[str]:
        command = [sys.executable, healthy_clients.__file__]
        command += [str(self.port), str(self.grpc_port), "mlp"]
        pipe = subprocess.PIPE
        clients = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert clients.stdin is not None
        assert clients.stdout is not None
        clients.stdin.write(self.picture.hex() + "\n")
        clients.stdin.flush()
        assert clients.stdout.readline() == "asking\n"
        time.sleep(0.5)
        return clients

    def _check(
        self, seen: dict[str, Any], before: int, peak: int, most_mib: float
    ) -> None:
        back = until(lambda: memory_bytes(self.pid) < before + 24 * _MIB, 10)
        print(f"back after {back:.1f} s")
        assert peak <= most_mib * _MIB
        for name, one in seen.items():
            assert one["failed"] == 0, (name, one)
            assert one["count"] > 5, (name, one)
        for name, one in seen.items():
            if one["p99_ms"] > _P99_MS:
                raise TooSlow(f"p99 over {name} was {one['p99_ms']} ms")

    def _sample(self, peak: list[int], over: threading.Event) -> None:
        while not over.wait(0.01):
            peak[0] = max(peak[0], memory_bytes(self.pid))


@pytest.fixture
def attacked(gateway_: GatewayProcess, picture: bytes) -> Attacked:
    """That gateway."""
    return Attacked(gateway_, picture)


def _in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads


def _rest(seconds: float, started: float) -> None:
    time.sleep(max(0.0, started + seconds - time.monotonic()))


# What all connections hold.


@pytest.mark.soak
def test_slow_bodies(attacked: Attacked) -> None:
    """150 bodies of 10 MB, all but the last byte, do not fill the memory."""
    body = bytes(10_000_000 - 1)
    length = b"Content-Length: 10000000\r\n\r\n"

    def send(_: int) -> None:
        with attacked.connect() as one, suppress(OSError):
            one.sendall(_POST + length + body)
            one.settimeout(3)
            one.recv(4096)

    with attacked.healthy():
        for thread in _in_threads(150, send):
            thread.join()


@pytest.mark.soak
@pytest.mark.parametrize("chunked", [False, True], ids=["in one", "chunked"])
def test_bodies_that_drip(attacked: Attacked, chunked: bool) -> None:
    """800 connections with half a body each wait for their time, and cost little."""
    start = _POST + b"Content-Length: 9999\r\n\r\n" + bytes(4000)
    if chunked:
        start = _POST + b"Transfer-Encoding: chunked\r\n\r\nfa0\r\n" + bytes(4000)
    with attacked.healthy(), ExitStack() as stack:
        slow = [stack.enter_context(attacked.connect()) for _ in range(800)]
        for one in slow:
            one.sendall(start)
        time.sleep(3)


def _slow_messages(attacked: Attacked, size: int, count: int) -> None:
    """Send `count` messages but for their last byte, as fast as they are taken."""
    whole = message(bytes(size))[:-1]

    def send(_: int) -> None:
        with suppress(OSError), Connection(attacked.grpc_port) as one:
            streams = [one.call(_CLASSIFY) for _ in range(64)]
            one.socket.settimeout(0.5)
            for position in range(0, len(whole), 16_000):
                piece = whole[position : position + 16_000]
                for stream in streams:
                    one.send(frame(DATA, piece, stream))
            time.sleep(2)

    for thread in _in_threads(count // 64, send):
        thread.join()


@pytest.mark.soak
def test_slow_messages(attacked: Attacked) -> None:
    """256 gRPC messages of 10 MB that never end do not fill the memory."""
    with attacked.healthy():
        _slow_messages(attacked, 10_000_000, 256)


@pytest.mark.soak
def test_slow_messages_of_a_real_client(attacked: Attacked) -> None:
    """256 calls of grpcio with 10 MB each, at once, are answered or refused."""
    big = pb.ClassifyRequest(model="mlp", images=[bytes(9_900_000)])
    codes: list[Any] = []

    def send(_: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(attacked.gateway.grpc_target, options) as channel:
            stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
            calls = [stub.Classify.future(big, timeout=10) for _ in range(32)]
            codes.extend(call.code() for call in calls)

    with attacked.healthy():
        for thread in _in_threads(8, send):
            thread.join()
    print({code.name: codes.count(code) for code in set(codes)})


@pytest.mark.soak
def test_pipelined_requests(attacked: Attacked) -> None:
    """200 connections that pipeline without end, and do not read, are bounded."""
    page = b"GET /page/page.js HTTP/1.1\r\nHost: x\r\n\r\n"

    def send(number: int) -> None:
        with attacked.connect() as one, suppress(OSError):
            one.settimeout(2)
            for _ in range(100):
                one.sendall((page if number % 2 else _LIVE) * 100)

    with attacked.healthy():
        for thread in _in_threads(200, send):
            thread.join()


@pytest.mark.soak
def test_answers_that_nobody_takes(attacked: Attacked, picture: bytes) -> None:
    """Clients that ask for large answers and read none, over both protocols."""
    length = b"Content-Length: %d\r\n\r\n" % len(picture)
    explain = b"POST /v1/models/mlp:explain HTTP/1.1\r\nHost: x\r\n" + length + picture
    many = pb.ClassifyRequest(model="mlp", images=[picture] * 32, top_k=10)
    whole = message(many.SerializeToString())
    with attacked.healthy(), ExitStack() as stack:
        for _ in range(60):
            one = stack.enter_context(attacked.connect())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(0.05)
            with suppress(OSError):
                one.sendall(explain * 50)
        for _ in range(4):
            other = stack.enter_context(
                Connection(attacked.grpc_port, [(INITIAL_WINDOW, 0)])
            )
            other.socket.settimeout(0.2)
            with suppress(OSError):
                for stream in range(1, 2 * 60, 2):
                    other.send(frame(HEADERS, head(_CLASSIFY), stream, 4))
                    other.send(frame(DATA, whole, stream, 1))
        time.sleep(2)


@pytest.mark.soak
def test_many_pictures_at_once(
    attacked: Attacked, encode: Callable[..., bytes]
) -> None:
    """200 pictures of 8 MB at once are answered or refused, and not all held."""
    dice = np.random.default_rng(0)
    photo = encode(dice.integers(0, 256, (1500, 1780, 3), np.uint8), compress_level=0)
    length = b"Content-Length: %d\r\n\r\n" % len(photo)
    statuses: list[bytes] = []

    def send(_: int) -> None:
        with attacked.connect() as one, suppress(OSError):
            one.settimeout(30)
            one.sendall(_POST + length + photo)
            statuses.append(one.recv(4096)[9:12])

    with attacked.healthy():
        for thread in _in_threads(200, send):
            thread.join()
    print({status: statuses.count(status) for status in set(statuses)})


# Places.


@pytest.mark.soak
@pytest.mark.parametrize("path", [_CLASSIFY, _CHECK], ids=["classify", "health"])
def test_calls_without_a_message(attacked: Attacked, path: str) -> None:
    """512 calls that send no message take no place from others; health answers."""
    with attacked.healthy(), ExitStack() as stack:
        started = time.monotonic()
        for _ in range(4):
            one = stack.enter_context(Connection(attacked.grpc_port))
            for _ in range(128):
                one.call(path)
            time.sleep(0.2)
        with grpc.insecure_channel(attacked.gateway.grpc_target) as channel:
            ask = channel.unary_unary(_CHECK)
            while time.monotonic() < started + 4:
                began = time.monotonic()
                assert ask(b"", timeout=5) == b"\x08\x01"
                within(time.monotonic() - began, 1.0)
                time.sleep(0.05)


@pytest.mark.soak
def test_idle_streams(attacked: Attacked) -> None:
    """64 idle streams lose their places to streams that ask."""
    request = pb.ClassifyStreamRequest(id="a")
    request.request.CopyFrom(pb.ClassifyRequest(model="mlp", images=[attacked.picture]))
    with attacked.healthy(), ExitStack() as stack:
        idle = [stack.enter_context(Connection(attacked.grpc_port)) for _ in range(2)]
        for one in idle * 32:
            one.call(_STREAM)
        time.sleep(1.5)
        with grpc.insecure_channel(attacked.gateway.grpc_target) as channel:
            stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
            for _ in range(10):
                [answer] = stub.ClassifyStream(iter([request]), timeout=5)
                assert answer.response.results


# Stand-stills.


@pytest.mark.soak
def test_compressed_messages(attacked: Attacked) -> None:
    """500 messages of 9 kB that inflate to 9 MB are refused within the limits."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(bytes(9 * _MIB)) + packer.flush()
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    block = head(_CLASSIFY) + literal(b"grpc-encoding", b"gzip")
    with attacked.healthy(), ExitStack() as stack:
        for _ in range(5):
            one = stack.enter_context(Connection(attacked.grpc_port))
            one.send(frame(WINDOW_UPDATE, _ROOM))
            for stream in range(1, 201, 2):
                one.send(frame(HEADERS, block, stream, 4))
                one.send(frame(DATA, body, stream, 1))
        time.sleep(3)


def _filled(start: bytes, filling: bytes, end: bytes, kind: bytes) -> bytes:
    body = start + filling * (8_000_000 // len(filling)) + end
    fields = b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
    return _POST + fields + body


_JSON, _FORM = b"application/json", b"multipart/form-data; boundary=b"
_PART = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n'
_COSTLY = {
    "JSON of brackets": _filled(b"", b"[", b"", _JSON),
    "JSON of numbers": _filled(b'{"images": [', b"1,", b"1]}", _JSON),
    "JSON of digits": _filled(b'{"images": [', b"1", b"]}", _JSON),
    "100,000 parts": _filled(b"", _PART, b"--b--\r\n", _FORM),
    "boundaries": _filled(b"", b"\r\n--", b"", _FORM),
    "chunks": _POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200_000,
    "chunks of empty lines": _POST
    + b"Transfer-Encoding: chunked\r\n\r\n7a1200\r\n"
    + b"\r\n\r\n" * 2_000_000,
    "10,000 headers": _POST + b"a: b\r\n" * 10_000 + b"\r\n",
    "one header": _POST + b"a: " + b"b" * 8_000_000,
    "query": _POST.replace(b" HTTP", b"?" + b"a=b&" * 3_500 + b" HTTP") + b"\r\n",
}


@pytest.mark.soak
@pytest.mark.parametrize("sent", _COSTLY.values(), ids=_COSTLY.keys())
def test_costly_requests(attacked: Attacked, sent: bytes) -> None:
    """Requests that are costly to read, four at a time, delay nobody."""

    def send(_: int) -> None:
        give_up = time.monotonic() + 3
        while time.monotonic() < give_up:
            with attacked.connect() as one, suppress(OSError):
                one.sendall(sent)
                one.settimeout(3)
                one.recv(4096)

    with attacked.healthy():
        for thread in _in_threads(4, send):
            thread.join()


# Watching.


@pytest.mark.soak
@pytest.mark.parametrize("count", [20, 200, 1000])
def test_watchers_cost_nothing(attacked: Attacked, count: int) -> None:
    """While nothing changes, a gateway with watchers takes as much time as without."""

    def cpu_s() -> float:
        fields = (
            Path(f"/proc/{attacked.pid}/stat").read_text().rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / 100

    def spent() -> float:
        before, started = cpu_s(), time.monotonic()
        time.sleep(4)
        return (cpu_s() - before) / (time.monotonic() - started)

    without, start = spent(), memory_bytes(attacked.pid)
    with ExitStack() as stack:
        for first in range(0, count, 100):
            one = stack.enter_context(Connection(attacked.grpc_port))
            for _ in range(min(100, count - first)):
                one.call(_WATCH, b"")
        time.sleep(2)
        beside = spent()
        grown = memory_bytes(attacked.pid) - start
    print(
        f"\n{count} watchers: {beside:.1%} of a core, {without:.1%} without; "
        f"{grown / _MIB:+.1f} MiB"
    )
    within(beside, without + 0.05)
    assert grown < 48 * _MIB


# Callers who have left.


@pytest.mark.soak
def test_work_for_callers_who_have_left(
    attacked: Attacked, encode: Callable[..., bytes]
) -> None:
    """40 pictures a second, each reset after 5 ms, and the pictures of others are answered."""
    dots = np.full((700, 700), 255, np.uint8)
    dots[::7, ::7] = 0
    costly = encode(dots)
    length = b"Content-Length: %d\r\n\r\n" % len(costly)
    stop = threading.Event()

    def attack() -> None:
        while not stop.wait(0.025):
            one = attacked.connect()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.sendall(_POST + length + costly)
            time.sleep(0.005)
            one.close()

    thread = threading.Thread(target=attack)
    thread.start()
    times = []
    try:
        time.sleep(1)
        for _ in range(20):
            began = time.monotonic()
            answer = attacked.gateway.request("POST", "/v1/models/mlp:classify", costly)
            assert answer.status == 200, answer.body
            times.append(time.monotonic() - began)
    finally:
        stop.set()
        thread.join()
    print(f"\n{sorted(times)[10]:.3f} s, at most {max(times):.3f} s")
    within(max(times), 2.0)


# Files, and the end.


@pytest.mark.soak
@pytest.mark.parametrize("files", [200, 1024])
def test_more_connections_than_files(
    start: Callable[..., Running], published: Path, picture: bytes, files: int
) -> None:
    """Where the system allows few files, both ports live on, and close idle connections."""

    def allow() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    ports = ["--http-port", 0, "--grpc-port", 0]
    flags = ["--workers", 1, "--models-dir", published, *ports]
    one = start("serve", *flags, preexec_fn=allow)
    one.wait_ready()
    found = re.search(r"grpc://[^ ]+:(\d+)", one.log.read_text())
    assert found
    gateway: Any = GatewayProcess(one.process, one.port, int(found[1]))  # type: ignore[arg-type]
    attacked, both = Attacked(gateway, picture), (one.port, int(found[1]))
    with attacked.healthy(), ExitStack() as stack:
        for number in range(900):
            address = ("127.0.0.1", both[number % 3 == 0])
            held = stack.enter_context(socket.create_connection(address, 10))
            with suppress(OSError):
                held.sendall((_LIVE + b"\r\n") * (number % 2))
        time.sleep(2)
    assert "Too many open files" not in one.log.read_text()


@pytest.mark.soak
def test_the_end_does_not_wait_for_who_reads_nothing(
    published: Path, start_gateway: Callable[..., Any]
) -> None:
    """SIGTERM ends a gateway soon, whose clients ask and never take the answers."""
    page = b"GET /page/page.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with start_gateway(published) as gateway, ExitStack() as stack:
        for _ in range(50):
            one = socket.socket()
            stack.enter_context(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", gateway.port))
            one.settimeout(0.1)
            with suppress(OSError):
                one.sendall(page * 200)
        time.sleep(1)
        started = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(40) == 0
        took = time.monotonic() - started

    within(took, 6)


# TLS.


@pytest.mark.soak
def test_handshakes_that_do_not_end(
    published: Path,
    start_gateway: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A client that begins with TLS and stops has five seconds, on both ports."""
    trustme = pytest.importorskip("trustme")
    pair = trustme.CA().issue_cert("127.0.0.1")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "crt")
    pair.private_key_pem.write_to_path(tmp_path / "key")
    flags = [
        "--tls-certificate",
        str(tmp_path / "crt"),
        "--tls-key",
        str(tmp_path / "key"),
    ]
    with start_gateway(published, *flags) as gateway, ExitStack() as stack:
        took = {}
        for name, port in (("http", gateway.port), ("grpc", gateway.grpc_port)):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            hello = ssl.MemoryBIO()
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            half = context.wrap_bio(ssl.MemoryBIO(), hello)
            with suppress(ssl.SSLWantReadError):
                half.do_handshake()
            one.sendall(hello.read())
            started = time.monotonic()
            with suppress(ConnectionResetError):
                while one.recv(65_536):
                    pass
            took[name] = time.monotonic() - started

    print(took)
    for seconds in took.values():
        within(seconds, 8)
