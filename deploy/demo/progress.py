"""Shows how the demo goes: live bars on a terminal, a plain line every two seconds elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

EVERY_S = 2.0
PLAIN_WIDTH = 120


class Show:
    """Events as lines, figures as bars (or lines); used as a context so that the terminal is whole afterwards."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=PLAIN_WIDTH)
        self._begun = time.monotonic()
        self._said = 0.0
        self._told: set[str] = set()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )
        self._registered = self._bars.add_task("registered", visible=False)
        self._ran = self._bars.add_task("ran", visible=False)

    def __enter__(self) -> "Show":
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def still(self) -> None:
        """The bars move no more; what is printed from now on stands below them."""
        self._bars.stop()

    def tell(self, text: str) -> None:
        """One line about something that happened."""
        self.console.print(f"{time.monotonic() - self._begun:5.1f} s  {text}", markup=False)

    def once(self, text: str) -> None:
        """The line was told, now or before."""
        if text not in self._told:
            self._told.add(text)
            self.tell(text)

    def figures(self, registered: int, to_register: int, ran: int, expected: int) -> None:
        """How far it is; `expected` grows with the registrations."""
        if self.console.is_terminal:
            self._bars.update(self._registered, completed=registered, total=to_register, visible=True)
            self._bars.update(self._ran, completed=ran, total=expected, visible=True)
        elif time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            self.tell(f"registered {registered} of {to_register}, ran {ran} of {expected}")
