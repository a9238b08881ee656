"""What the handlers wrote: the only witness of what ran."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """A handler was entered for this run."""

    key: str
    attempt: int
    due_us: int
    now_us: int
    pid: int


class Effects:
    """Reads the file as it grows; not to be shared between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self.entries: list[Entry] = []
        self.by_key: defaultdict[str, list[Entry]] = defaultdict(list)

    def more(self) -> list[Entry]:
        """The entries that were written since the last call."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        new = []
        for line in whole.decode().splitlines():
            key, *numbers = line.split()
            new.append(Entry(key, *map(int, numbers)))
        self.entries += new
        for entry in new:
            self.by_key[entry.key].append(entry)
        return new
