"""The users of docs/farm/redis.sh: each can do its work, and not that of others.

That a whole stack needs no more, tests/acceptance/test_compose.py tells.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import redis
from kombu import Connection, Exchange, Queue
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.compose import PASSWORD_OF, ROOT
from tests.integration.secured_redis import redis_with_roles
from worker.app import app
from worker.messages import LoadSpectra, SpectrumReference
from worker.monitoring.status import read_status
from worker.queues import ALL_QUEUES
from worker.redis_keys import reading_key
from worker.settings import Settings
from worker.spectra.pixels import N_PIXELS
from worker.transport.arrays import Absent, ArrayStore
from worker.transport.broker import UNACKED, Broker
from worker.transport.client import broker_client
from worker.transport.crash_guard import CrashGuard
from worker.transport.served_weights import tell_served
from worker.transport.set_aside import SetAside, all_set_aside, forget_set_aside, set_aside
from worker.transport.vitals import count_spectra, count_strangers, tell_worker

WORKERS = ("loader", "inference", "ledger")
ROLES = (*WORKERS, "watcher")
FLUX = np.ones((1, N_PIXELS), dtype=np.float32)
SPECTRUM = SpectrumReference(
    job=1, spectrum=1, file_version="v", path="p.fits", member="", snr=None, mask_key=""
)
ENTRY = SetAside.of("load.bulk", b"anything", "no message")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_with_roles(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture
def admin(port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port, password=PASSWORD_OF["default"]) as client:
        client.flushall()
        client.acl_log_reset()
        yield client


@pytest.fixture
def settings_of(port: int) -> Callable[[str], Settings]:
    def settings(role: str) -> Settings:
        return Settings(broker_url=f"redis://{role}:{PASSWORD_OF[role]}@127.0.0.1:{port}/0")

    return settings


# --- What each can do ----------------------------------------------------------------------


def as_worker(settings: Settings) -> None:
    with closing(broker_client(settings)) as client:
        tell_worker(client, "somebody@host", {})
        count_spectra(client, "load", 1)
        count_strangers(client, 1)
        set_aside(client, ENTRY)
        assert Broker(client, settings.broker).backlog("infer.bulk") == 0


def as_loader(settings: Settings) -> None:
    as_worker(settings)
    ArrayStore(settings.arrays, 60).put("astronn-stream:flux:1", FLUX)
    message = LoadSpectra(lane="bulk", weights="w", spectra=(SPECTRUM,))
    guard = CrashGuard(settings.arrays)
    guard.mark(reading_key(message.array_key))  # as by a process that died
    with guard.serving(message) as guarded, guarded(SPECTRUM):
        pass
    assert guard.mark(reading_key(message.array_key)) == 0


def as_inference(settings: Settings) -> None:
    as_worker(settings)
    store = ArrayStore(settings.arrays, 60)
    assert store.get("astronn-stream:flux:1", 1) is Absent.GONE
    store.finish("astronn-stream:flux:1")
    assert store.get("astronn-stream:flux:1", 1) is Absent.FINISHED


def as_ledger(settings: Settings) -> None:
    as_worker(settings)
    with closing(broker_client(settings)) as client:
        broker = Broker(client, settings.broker)
        assert broker.name() == broker.name()
        broker.tell_alive()
        tell_served(client, "weights")
        assert broker.transit().queued == frozenset()
        assert all_set_aside(client) == [ENTRY]
        forget_set_aside(client)
    as_watcher(settings)


def as_watcher(settings: Settings) -> None:
    status = read_status(settings)
    assert status.redis
    assert status.redis_writes


@pytest.mark.parametrize("work", [as_loader, as_inference, as_ledger, as_watcher])
def test_each_can_do_its_work(
    admin: redis.Redis,
    settings_of: Callable[[str], Settings],
    work: Callable[[Settings], None],
) -> None:
    work(settings_of(work.__name__.removeprefix("as_")))
    assert admin.acl_log() == []


def test_who_watches_sees_that_redis_refuses_writes(
    admin: redis.Redis, settings_of: Callable[[str], Settings]
) -> None:
    admin.config_set("maxmemory", 1)
    try:
        status = read_status(settings_of("watcher"))
    finally:
        admin.config_set("maxmemory", 0)
    assert status.redis
    assert not status.redis_writes


@pytest.mark.parametrize("queue", ALL_QUEUES)
@pytest.mark.parametrize("role", WORKERS)
def test_each_worker_gives_back_what_a_dead_one_held(
    admin: redis.Redis, settings_of: Callable[[str], Settings], role: str, queue: str
) -> None:
    message = {"headers": {}, "properties": {"delivery_info": {}}, "body": ""}
    admin.hset(UNACKED, "tag", json.dumps([message, queue, queue]))
    admin.zadd(f"{UNACKED}_index", {"tag": 1})
    options = app.conf.broker_transport_options
    with Connection(settings_of(role).broker, transport_options=options) as connection:
        channel = connection.channel()
        Queue(queue, Exchange(queue), routing_key=queue)(channel).declare()
        channel.qos.restore_visible()
    assert admin.llen(queue) == 1
    assert admin.exists(UNACKED, f"{UNACKED}_index", f"{UNACKED}_mutex") == 0
    assert admin.acl_log() == []


@pytest.mark.parametrize("role", ROLES)
def test_each_clears_away_the_bindings_of_who_is_gone(
    admin: redis.Redis, settings_of: Callable[[str], Settings], role: str
) -> None:
    for exchange in ("celeryev", "celery.pidbox", "reply.celery.pidbox"):
        admin.sadd(f"_kombu.binding.{exchange}", "anybody")
        admin.zadd("_kombu.binding_deadlines", {exchange: 1})
    with Connection(settings_of(role).broker) as connection:
        assert connection.channel().sweep_bindings() == 3
    assert admin.dbsize() == 0
    assert admin.acl_log() == []


# --- And what not --------------------------------------------------------------------------

OF_THE_ADMIN = """
CONFIG GET * | CONFIG SET save x | FLUSHALL | FLUSHDB | ACL LIST | ACL SETUSER loader
SHUTDOWN NOSAVE | MODULE LIST | REPLICAOF host 1 | SCRIPT FLUSH | SCRIPT KILL | FUNCTION FLUSH
EVAL return 0 | KEYS * | MONITOR | CLIENT LIST | CLIENT PAUSE 1 | SWAPDB 0 1 | SAVE | BGREWRITEAOF
SLOWLOG GET | DUMP record | RENAME record load.bulk | COPY record load.bulk | SORT record
SUBSCRIBE anything | PSUBSCRIBE * | PUBLISH anything x | SET anything x | GET anything
"""
OF_OTHERS = {
    "loader": """
BRPOP record 1 | RPOP record.live | LRANGE record 0 -1 | LINDEX record 0 | LTRIM record 1 0
DEL record | LSET record 0 x | BRPOP infer.bulk 1 | LMOVE record load.bulk LEFT LEFT | DEL unacked
HVALS unacked
GET astronn-stream:flux:1 | SET astronn-stream:broker x | SET astronn-stream:weights x
DEL astronn-stream:set-aside | PSUBSCRIBE /0.celeryev/* | DEL load.bulk
""",
    "inference": """
BRPOP record 1 | LRANGE record 0 -1 | DEL record | BRPOP load.bulk 1 | DEL unacked | HVALS unacked
DEL astronn-stream:reading:1 | SET astronn-stream:broker x | SET astronn-stream:weights x
DEL astronn-stream:flux:1 | PSUBSCRIBE /0.celeryev/* | DEL infer.bulk
""",
    "ledger": """
BRPOP load.bulk 1 | BRPOP infer.bulk 1 | DEL load.bulk | DEL record | DEL unacked
GET astronn-stream:flux:1 | SET astronn-stream:flux:1 x | DEL astronn-stream:reading:1
""",
    "watcher": """
LPUSH load.bulk x | LPUSH record x | RPUSH infer.live x | BRPOP load.bulk 1 | BRPOP record 1
LRANGE record 0 -1 | DEL load.bulk | DEL record | HGET unacked x | HVALS unacked | HDEL unacked x
ZREM unacked_index x | SET unacked_mutex x | SADD _kombu.binding.load.bulk x
SMEMBERS _kombu.binding.load.bulk | SET astronn-stream:broker x | SET astronn-stream:worker:a x
INCRBY astronn-stream:strangers 1 | SETRANGE astronn-stream:weights 0 x
DEL astronn-stream:set-aside
GET astronn-stream:flux:1 | SET astronn-stream:flux:1 x | PUBLISH /0.celeryev/task.sent x
""",
}


def commands(text: str) -> list[list[str]]:
    return [each.split() for line in text.strip().splitlines() for each in line.split("|")]


@pytest.mark.parametrize("role", ROLES)
def test_nobody_can_do_what_is_the_business_of_others(
    admin: redis.Redis, settings_of: Callable[[str], Settings], role: str
) -> None:
    admin.lpush("record", "a result")
    with closing(broker_client(settings_of(role))) as client:
        for command in commands(OF_THE_ADMIN) + commands(OF_OTHERS[role]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                pytest.fail(f"{command}: {client.execute_command(*command)}")


@pytest.mark.parametrize("role", ROLES)
def test_a_script_may_do_no_more_than_who_runs_it(
    admin: redis.Redis, settings_of: Callable[[str], Settings], role: str
) -> None:
    admin.lpush("record", "a result")
    with closing(broker_client(settings_of(role))) as client:
        harmless, harmful = map(client.script_load, ("return 1", "redis.call('DEL', 'record')"))
        assert client.evalsha(harmless, 1, "a.reply.celery.pidbox") == 1
        with pytest.raises(redis.ResponseError):
            client.evalsha(harmful, 1, "a.reply.celery.pidbox")
    assert admin.llen("record") == 1


def test_workers_and_watchers_have_other_passwords(port: int) -> None:
    for role, variable in PASSWORD_OF.items():
        for password in {*PASSWORD_OF.values()} - {variable}:
            once = Retry(NoBackoff(), 0)
            with (
                redis.Redis(port=port, username=role, password=password, retry=once) as client,
                pytest.raises(redis.AuthenticationError),
            ):
                client.ping()


@pytest.mark.parametrize("missing", sorted(set(PASSWORD_OF.values())))
def test_without_a_password_nothing_is_started(tmp_path: Path, missing: str) -> None:
    given = {name: name for name in PASSWORD_OF.values() if name != missing}
    done = subprocess.run(
        ["/bin/sh", ROOT / "docs" / "farm" / "redis.sh"],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert missing in done.stderr
