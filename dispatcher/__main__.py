"""`python -m dispatcher`: one dispatcher process; start two or more, on different machines."""

import contextlib
import logging
import signal
import sys
import time

from clockjack import telemetry
from clockjack.ledger import server
from clockjack.ledger.database import Database, LoginRefused, Unavailable, UnknownCommit
from clockjack.queues import Queues, RedisError
from clockjack.settings import for_process
from dispatcher.loops import Dispatcher

log = logging.getLogger("clockjack.dispatcher")


def main() -> int:
    """Dispatch until SIGTERM; the exit code."""
    settings = for_process("dispatcher")
    telemetry.log_to_stdout(settings.log_level, "dispatcher")
    database = Database(settings.database_url, size=5, lock_wait_s=1)
    maintenance = Database(settings.database_url, size=1, locks=False)  # its DDL may take longer than 5 s
    dispatcher = Dispatcher(database, Queues(settings.redis_url), maintenance, settings.retention_days)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(dispatcher, "stop", True))
    telemetry.serve_metrics(settings.metrics_port)
    while not dispatcher.stop:
        try:
            database.now()
            for warning in server.require(database, unsafe_server=settings.unsafe_server):
                log.warning(warning, extra={"action": "server"})
            break
        except (LoginRefused, server.Unfit) as error:
            print(f"dispatcher: {error}", file=sys.stderr)
            return 2
        except (Unavailable, UnknownCommit):
            time.sleep(0.5)
    with contextlib.suppress(RedisError):
        for warning in dispatcher.queues.check():
            log.warning(warning, extra={"action": "redis"})
    dispatcher.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
