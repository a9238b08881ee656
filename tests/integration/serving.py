"""A producer in a process of its own, for tests that ask it over HTTP."""

import json
import os
import socket
import subprocess
import sys


class Producer:
    """`python -m producer` on a port of its own."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        servers = {"CLOCKJACK_DATABASE_URL": database_url, "CLOCKJACK_REDIS_URL": redis_url}
        self._environment = {**os.environ, **servers, "CLOCKJACK_HTTP_PORT": str(self.port)}
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "producer"], env=self._environment, stdout=subprocess.PIPE, text=True
        )
        line = json.loads(self.process.stdout.readline())
        assert (line["action"], line["port"]) == ("listening", self.port)

    def end(self, how: int) -> int:
        self.process.send_signal(how)
        self.process.stdout.close()
        return self.process.wait(10)
