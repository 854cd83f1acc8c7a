"""A redis-server with users, and TLS before it: the server of the wheel has none."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from benchmarks.rig.servers import free_port
from benchmarks.rig.waiting import wait_for
from tests.compose import PASSWORD_OF, ROOT
from worker.local.redis_server import redis_server


@contextmanager
def secured_redis(folder: Path, user: str, password: str) -> Iterator[int]:
    """The port of a server whose default user and ``user`` have this password."""
    command = [str(redis_server()), "--requirepass", password]
    with _served(folder, command, password) as (port, client):
        rights = ["on", f">{password}", "~*", "&*", "+@all"]
        client.execute_command("ACL", "SETUSER", user, *rights)
        yield port


@contextmanager
def redis_with_roles(folder: Path) -> Iterator[int]:
    """The port of a server with the users of docs/farm/redis.sh."""
    (folder / "redis-server").symlink_to(redis_server())
    passwords = {name: name for name in PASSWORD_OF.values()}
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": str(folder), **passwords}
    command = ["sh", str(ROOT / "docs" / "farm" / "redis.sh")]
    with _served(folder, command, passwords[PASSWORD_OF["default"]], environment) as (port, _):
        yield port


@contextmanager
def _served(
    folder: Path, command: list[str], password: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[int, redis.Redis]]:
    """A server's port, and a client of its default user."""
    port = free_port()
    process = subprocess.Popen(
        [*command, "--bind", "127.0.0.1", "--port", str(port), "--save", ""],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        with redis.Redis(port=port, password=password) as client:
            wait_for(lambda: _answers(client), "redis-server")
            yield port, client
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(client: redis.Redis) -> bool:
    with suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


@contextmanager
def tls_before(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """The port on which TLS for another port is spoken."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = _Proxy(port)
    try:
        yield asyncio.run_coroutine_threadsafe(proxy.start(context), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Proxy:
    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, context: ssl.SSLContext) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        own: int = self._server.sockets[0].getsockname()[1]
        return own

    async def stop(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        with suppress(asyncio.CancelledError):
            behind, before = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(_pump(reader, before), _pump(behind, writer))
        self._connections.discard(connection)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError, ssl.SSLError):
            while content := await reader.read(1 << 16):
                writer.write(content)
                await writer.drain()
    finally:
        writer.close()
