"""The service under hostile hands: clients that never read, floods of errors, stopped workers, strange hosts."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from servers import Server, serving
from strait.cli import main

pytest.importorskip("fastapi", reason="the service needs pip install 'strait[serve]'")

from strait.apps.connection import served_hosts
from strait.apps.service import pool
from strait.apps.service.gate import Held
from strait.apps.service.limits import Limits
from test_service import EDIT, FEW, GENERATE, children, lives, wait_until_ready, waiting_clients, worker_of

HOST = "Host: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With little patience for those who read slowly, so that tests need little of it."""
    with serving("serve", "--port", 0, "--device", "cpu", "--max-reply-seconds", 8) as started:
        yield wait_until_ready(started)


def memory(process: int) -> float:
    """Resident megabytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def processor_seconds(process: int) -> float:
    """How long a process has computed, whatever else the machine does."""
    values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def connections(process: int) -> int:
    """Open sockets."""
    links = Path(f"/proc/{process}/fd").iterdir()
    names = []
    for link in links:
        with contextlib.suppress(OSError):
            names.append(os.readlink(link))
    return sum(name.startswith("socket:") for name in names)


def until(is_so: object, seconds: float) -> bool:
    """Whether something comes true within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():  # type: ignore[operator]
            return True
        time.sleep(0.1)
    return False


def health(server: Server) -> int:
    return server.get("/health").status_code


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def unread(server: Server, request: bytes) -> socket.socket:
    """A client that asks and never reads; its own buffer is small."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((host, int(port)))
    connection.sendall(request)
    return connection


def rest(connection: socket.socket) -> int:
    """How many bytes can still be read of a connection that was dropped: those on their way."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(2**20):
            count += len(piece)
    return count


def noise_edit(side: int) -> bytes:
    """An edit whose reply is a picture of noise: three bytes a pixel, and a third more as base64."""
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    body = {"action": "extend", "image": base64.b64encode(buffer.getvalue()).decode(), "left": 1, "steps": [1, 1]}
    return json.dumps(body).encode()


def test_clients_that_never_read_are_dropped_with_what_waits_for_them() -> None:
    with serving("serve", "--port", 0, "--device", "cpu", "--max-reply-seconds", 60) as server:
        wait_until_ready(server)
        request = post(EDIT, noise_edit(1200))
        whole = server.post(EDIT, content=noise_edit(1200), headers={"Content-Type": "application/json"})
        process = server.process.pid
        before, sockets = memory(process), connections(process)
        clients = [unread(server, request) for _ in range(8)]
        assert until(lambda: server.get("/metrics").text.count(f'path="{EDIT}",status="200"}} 9.0') == 1, 120)
        assert memory(process) - before > 15, "the replies are not held: this test tests nothing"
        # Ten seconds without a byte read, and each is gone with its reply.
        assert until(lambda: connections(process) <= sockets + 1, 30)
        assert until(lambda: memory(process) - before < 15, 10)
        for client in clients:
            assert rest(client) < len(whole.content)
            client.close()
        assert server.post(GENERATE, json={}).status_code == 200


def test_one_who_reads_slowly_gets_all_and_one_who_reads_too_slowly_does_not(server: Server) -> None:
    body, sockets = noise_edit(1300), connections(server.process.pid)
    whole = server.post(EDIT, content=body, headers={"Content-Type": "application/json"})
    assert whole.status_code == 200
    with unread(server, post(EDIT, body)) as slow:
        read = b""
        while len(whole.content) > len(read.partition(b"\r\n\r\n")[2]):
            piece = slow.recv(2**18)
            assert piece, "dropped although it reads"
            read += piece
        assert read.endswith(whole.content)
    # A trickle keeps no connection for longer than --max-reply-seconds, though it never stops.
    with unread(server, post(EDIT, body)) as trickle:
        is_over = threading.Event()

        def sip() -> None:
            while not is_over.wait(0.2):
                trickle.recv(30_000)

        drinker = threading.Thread(target=sip)
        drinker.start()
        assert until(lambda: connections(server.process.pid) > sockets, 5)
        assert until(lambda: connections(server.process.pid) <= sockets, 30)
        is_over.set()
        drinker.join()


def test_requests_sent_at_once_end_with_their_client(server: Server) -> None:
    """The parser that uvicorn prefers logs a traceback of 66 lines for each such client, and works on."""
    request = f"GET /v1/classes HTTP/1.1\r\n{HOST}\r\n".encode()
    before = connections(server.process.pid)
    with unread(server, 300 * request):
        assert until(lambda: connections(server.process.pid) > before, 10)
        # Eight seconds without a byte read.
        assert until(lambda: connections(server.process.pid) <= before, 30)
    assert health(server) == 200
    assert not [line for line in server.lines if "Traceback" in line]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"temperature": [-1] * 1_500_000}),
        json.dumps({"labels": [[]] * 1_000_000}),
        json.dumps({"labels": ["x" * 100] * 60_000}),
        json.dumps({"steps": [0] * 1_500_000}),
        json.dumps(dict.fromkeys(map(str, range(500_000)))),
    ],
    ids=["temperatures", "labels of no kind", "labels", "steps", "unknown names"],
)
def test_many_errors_cost_what_one_costs(server: Server, body: str) -> None:
    before, used = memory(server.process.pid), processor_seconds(server.process.pid)
    reply = server.post(GENERATE, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    assert len(reply.content) < 300
    # Each was described in a kilobyte or so: gigabytes, and half a minute in which nobody else was answered.
    assert memory(server.process.pid) - before < 150
    assert processor_seconds(server.process.pid) - used < 5


def test_a_stopped_worker_is_said_and_its_clients_are_told() -> None:
    words = ("--max-seconds", 5, "--max-work-seconds", 10)
    with serving("serve", "--port", 0, "--device", "cpu", "--workers", 2, *words) as server:
        wait_until_ready(server)
        numbers = [number for number in children(server.process.pid) if b"spawn_main" in words_of(number)]
        assert len(numbers) == 2
        assert until(lambda: "strait_workers_ready 2.0" in server.get("/metrics").text, 60)
        # One of two: the other goes on.
        os.kill(numbers[0], signal.SIGSTOP)
        assert until(lambda: server.get("/health").text == "1 of 2 workers do not answer", 30)
        assert health(server) == 503
        assert server.post(GENERATE, json={"steps": FEW}).status_code == 200
        os.kill(numbers[1], signal.SIGSTOP)
        start = time.monotonic()
        reply = server.post(GENERATE, json={"steps": FEW})
        assert reply.status_code == 504
        assert time.monotonic() - start < 25
        for number in numbers:
            os.kill(number, signal.SIGCONT)
        assert until(lambda: health(server) == 200, 30)
        assert server.post(GENERATE, json={"steps": FEW}).status_code == 200


def test_a_worker_that_never_loads_its_model_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LOADING", 0.0)
    words = ("shipped", ["cpu", "cpu"], Limits(), 1, 0.0, 1, Held())
    waiting = pool.Pool(*words)
    waiting._workers = [pool._Worker(None, None) for _ in range(2)]
    waiting._workers[0].is_ready, waiting._workers[0].busy_until = True, None
    assert waiting.health() == "1 of 2 workers do not answer"
    assert waiting.ready() == 1


def test_a_worker_stopped_in_the_midst_of_work_gives_504() -> None:
    with serving("serve", "--port", 0, "--device", "cpu", "--max-work-seconds", 8) as server:
        wait_until_ready(server)
        threads, replies = waiting_clients(server, 3)
        os.kill(worker_of(server), signal.SIGSTOP)
        # Those in its hands; others may still wait for their turn.
        assert until(lambda: replies, 30)
        assert replies[0].status_code == 504
        assert "took too long" in replies[0].json()["detail"]
        assert until(lambda: health(server) == 503, 10)
        os.kill(worker_of(server), signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert until(lambda: health(server) == 200, 30)


def test_work_that_takes_too_long_is_given_up_and_the_worker_is_free() -> None:
    steps = {"count": 16, "steps": [16, 16]}
    words = ("--max-work-seconds", 0.2)
    with serving("serve", "--port", 0, "--device", "cpu", *words) as impatient:
        wait_until_ready(impatient)
        reply = impatient.post(GENERATE, json=steps)
        assert (reply.status_code, reply.json()["detail"]) == (
            504,
            "the work on the request took too long; ask for less",
        )
        assert health(impatient) == 200
        # Little work fits into little time, unless the machine is busy just then.
        assert until(lambda: impatient.post(GENERATE, json={"steps": [1, 1]}).status_code == 200, 60)


def words_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("is_stopped", [False, True])
def test_workers_end_with_the_service_however_it_ends(is_stopped: bool) -> None:
    with serving("serve", "--port", 0, "--device", "cpu", "--workers", 2) as server:
        wait_until_ready(server)
        below = children(server.process.pid)
        if is_stopped:
            os.kill(worker_of(server), signal.SIGSTOP)
        threads = [threading.Thread(target=ask_and_lose, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        server.process.kill()
        server.process.wait()
        for thread in threads:
            thread.join()
        assert until(lambda: not any(map(lives, below)), 10)
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_server((host, int(port))):  # the port is free again
            pass


def ask_and_lose(server: Server) -> None:
    with contextlib.suppress(httpx.HTTPError):
        server.post(GENERATE, json={"count": 16})


def test_only_hosts_of_this_machine_are_answered_on_loopback(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    for host in ("127.0.0.1", f"127.0.0.1:{port}", "localhost", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert server.get("/health", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.", "", "[::1"):
        for path in ("/health", "/v1/classes", "/docs"):
            reply = server.get(path, headers={"Host": host})
            assert (reply.status_code, "allowed-host" in reply.text) == (400, True), host
        assert server.post(GENERATE, json={}, headers={"Host": host}).status_code == 400
    host, number = server.url.removeprefix("http://").split(":")
    for head in (b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"):
        with socket.create_connection((host, int(number)), timeout=10) as connection:
            connection.sendall(head)
            assert b" 400 " in connection.recv(100)


def test_hosts_are_checked_where_only_this_machine_can_ask() -> None:
    assert "localhost" in served_hosts("127.0.0.1", [])
    assert {"here.example", "::1"} <= set(served_hosts("::1", ["here.example"]))
    assert served_hosts("0.0.0.0", []) == []
    assert served_hosts("::", ["here.example"]) == ["here.example"]
    for wrong in ("http://x", "x/y", "", "*", "a,b", "x:80"):
        with pytest.raises(ValueError, match=r"^--allowed-host: "):
            served_hosts("127.0.0.1", [wrong])


def test_pages_elsewhere_may_ask_if_they_are_named() -> None:
    words = (
        "serve",
        "--port",
        0,
        "--device",
        "cpu",
        "--cors",
        "https://here.example",
        "--allowed-host",
        "api.example",
    )
    with serving(*words, STRAIT_API_KEY="secret") as server:
        wait_until_ready(server)
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key, content-type"}
        for origin, status in (("https://here.example", 200), ("https://evil.example", 400)):
            # A browser asks first, and without the key.
            reply = httpx.options(server.url + GENERATE, headers={"Origin": origin, **asks})
            assert reply.status_code == status
            is_named = reply.headers.get("access-control-allow-origin") == origin
            assert is_named == (status == 200)
            for key, answered in (("secret", 422), ("wrong", 401)):
                reply = server.post(GENERATE, json={"x": 1}, headers={"Origin": origin, "X-API-Key": key})
                assert reply.status_code == answered
                assert ("access-control-allow-origin" in reply.headers) == is_named
        assert server.get("/health", headers={"Host": "api.example"}).status_code == 200


def test_no_page_elsewhere_may_ask_unless_it_is_named(server: Server) -> None:
    reply = server.post(GENERATE, json={}, headers={"Origin": "https://here.example"})
    assert "access-control-allow-origin" not in reply.headers


def test_wrong_settings_of_who_may_ask_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("", " ", "\n"):
        monkeypatch.setenv("STRAIT_API_KEY", key)
        assert main(["serve"]) == 2
        assert capsys.readouterr().err.startswith("strait: STRAIT_API_KEY: it is empty")
    monkeypatch.delenv("STRAIT_API_KEY")
    for words in (["--cors", "here.example"], ["--cors", "https://here.example/"], ["--allowed-host", "http://x"]):
        assert main(["serve", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
