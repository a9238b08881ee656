"""A producer in a process of its own, for tests that ask it over HTTP."""

import json
import os
import subprocess
import sys


class Producer:
    """`python -m producer` on a free port, and on the same one when it is started again."""

    def __init__(self, database_url: str, redis_url: str, **settings: str) -> None:
        self.port = 0
        self._settings = {"CLOCKJACK_DATABASE_URL": database_url, "CLOCKJACK_REDIS_URL": redis_url, **settings}
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {**os.environ, **self._settings, "CLOCKJACK_HTTP_PORT": str(self.port)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "producer"], env=environment, stdout=subprocess.PIPE, text=True
        )
        line = json.loads(self.process.stdout.readline())
        assert line["action"] == "listening"
        assert self.port in (0, line["port"])
        self.port = line["port"]

    def end(self, how: int) -> int:
        self.process.send_signal(how)
        self.process.stdout.close()
        return self.process.wait(30)
