"""A Flower that watches a stream, asked as a program or a person would."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rig.servers import free_port
from benchmarks.rig.stream import Stream
from benchmarks.rig.waiting import wait_for
from worker.local.stack import COMMANDS, FLOWER

LOGIN = "watcher:right"


@dataclass(frozen=True)
class Flower:
    """Where a Flower answers."""

    port: int

    def page(self, path: str, login: str = f"{LOGIN}@") -> str:
        """The address of a page."""
        return f"http://{login}127.0.0.1:{self.port}/{path}"

    def ask(self, path: str, login: str | None = LOGIN, method: str = "GET") -> str:
        """What a page answers to a program."""
        request = urllib.request.Request(self.page(path, ""), method=method)  # noqa: S310 - loopback
        if login is not None:
            word = base64.b64encode(login.encode()).decode()
            request.add_header("Authorization", f"Basic {word}")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())

    def api(self, path: str) -> Any:
        """What its interface for programs answers."""
        return json.loads(self.ask(f"api/{path}"))

    def sees(self, workers: int) -> bool:
        """Whether it sees so many workers alive."""
        try:
            return sum(self.api("workers?status=true").values()) == workers
        except OSError:
            return False

    def jobs_done(self) -> int:
        """How many jobs ended, as the tasks that ended them say."""
        results = [
            task["result"]
            for name in ("record", "no_result")
            for task in self.api(f"tasks?taskname={name}&state=SUCCESS").values()
        ]
        counted = [re.match(r"'(\d+) of \d+ jobs done", result) for result in results]
        return sum(int(found[1]) for found in counted if found)


@contextmanager
def flower_before(stream: Stream, workers: int = 4) -> Iterator[Flower]:
    """Flower meanwhile, once it sees the workers of a stream."""
    flower = Flower(free_port())
    executable, *arguments = COMMANDS[FLOWER]
    arguments = [f"--port={flower.port}" if part == "--port=5555" else part for part in arguments]
    with stream.log("flower").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / executable), *arguments],
            env={**stream.environment, "FLOWER_BASIC_AUTH": LOGIN},
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: flower.sees(workers), "Flower to see the workers", 90)
        yield flower
    finally:
        process.terminate()
        process.wait(timeout=30)
