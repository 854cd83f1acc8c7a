"""The stack that runs here already, and the one that ``run`` brings up for itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.errors import FatalError
from worker.settings import Settings


class StackChild:
    """A child process that looks after the workers; a context that takes it down at its end.

    It is tied to this process by its standard input: when that closes, however this process
    ends, the child stops the workers and the redis-server and removes ``directory``.
    """

    def __init__(self, settings: Settings, directory: Path, services: Collection[str]) -> None:
        self._events: list[str] = []
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "worker.local.stack", str(directory), *services],
            env={**os.environ, **settings.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which then closes the pipe
        )
        self._ready = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._listener.join()

    def wait_until_ready(self) -> None:
        """Wait for the redis-server, so that messages can be sent; workers may still start.

        Raises
        ------
        FatalError
            The stack could not be started; the text says why.
        """
        self._ready.wait()
        self.check()

    def check(self) -> bool:
        """Whether a worker had to be started again since the last call.

        Raises
        ------
        FatalError
            The stack ended; the text says why.
        """
        events, self._events = self._events, []
        for event in events:
            if event.startswith("failed "):
                raise FatalError(event.removeprefix("failed ").replace("\t", "\n"))
        if self._process.poll() is not None:
            raise FatalError("The local workers were stopped from outside.")
        return any(event.startswith("restarted ") for event in events)

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._events.append(line.rstrip("\n"))
            self._ready.set()
        self._ready.set()
