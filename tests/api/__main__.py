"""`python -m tests.api`: the whole API against its description, on servers of its own; about 2 minutes.

Prints the figures, and what schemathesis said when it found something. The exit code is 0 only if it found nothing.
"""

import base64
import sys
from pathlib import Path

from clockjack.ledger import keys
from tests.api.trying import figures, tried
from tests.prove.stage import Stage

OPTIONS = ("--max-examples", "100")


def main() -> int:
    """The exit code of schemathesis."""
    stage = Stage()
    try:
        secret = base64.b64encode(b"k" * 32).decode()
        producer = stage.start("producer", secret_keys=secret)
        ours, theirs = (
            stage.ledger.transaction(lambda c, n=name: keys.create(c, n, "tried", "admin"))
            for name in ("default", "theirs")
        )
        options = sys.argv[1:] or OPTIONS
        code, said = tried(
            f"http://127.0.0.1:{producer.port}", ours, theirs, Path(stage.home), *options, timeout_s=1800
        )
        print(said if code else figures(said), flush=True)
        if not producer.alive:
            print("the producer ended")
            return 1
        return code
    finally:
        stage.close()


if __name__ == "__main__":
    sys.exit(main())
