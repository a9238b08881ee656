"""How proofs are tried and told: one line each with its figure, `holds` or `falls short`; PROVE_JSON=file as JSON too.

The load of the machine before a proof stands beside its figure: what is measured on a busy machine says little.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.prove.stage import Stage


class Proof(NamedTuple):
    """A name for the command line, what is claimed, and the function that tries it: (figure, whether it holds).

    The function is given an emptied stage, or, where the proof needs none, nothing.
    """

    name: str
    what: str
    run: Callable[..., tuple[str, bool]]
    staged: bool = True


class Scene:
    """The stage that the proofs share: its servers begin with the first proof that needs them."""

    def __init__(self) -> None:
        self._stage: Stage | None = None

    def emptied(self) -> Stage:
        """No process runs, no task exists, Redis holds nothing."""
        self._stage = self._stage or Stage()
        self._stage.empty()
        return self._stage

    def close(self, *, held: bool) -> None:
        """Everything that was started has ended; where a proof did not hold, the logs stay and are named."""
        if self._stage and held:
            self._stage.close()
        elif self._stage:
            self._stage.end()
            print(f"logs: {self._stage.home}", file=sys.stderr)


def main(proofs: Sequence[Proof], names: Sequence[str]) -> int:
    """The proofs of these names, or all, were tried; 0 only if all hold."""
    if unknown := set(names) - {proof.name for proof in proofs}:
        print(f"no proof {', '.join(sorted(unknown))}; there are: {', '.join(p.name for p in proofs)}", file=sys.stderr)
        return 2
    begun, lines, scene = time.monotonic(), [], Scene()
    try:
        for proof in proofs:
            if not names or proof.name in names:
                lines.append(_try(scene, proof))
    finally:
        scene.close(held=all(line["holds"] for line in lines))
    held = sum(bool(line["holds"]) for line in lines)
    print(f"{held} of {len(lines)} proofs hold ({time.monotonic() - begun:.0f} s)")
    if file := os.environ.get("PROVE_JSON"):
        Path(file).write_text(json.dumps(lines, indent=1))
    return 0 if held == len(lines) else 1


def _try(scene: Scene, proof: Proof) -> dict[str, Any]:
    begun, load = time.monotonic(), os.getloadavg()[0]
    try:
        figure, holds = proof.run(*([scene.emptied()] if proof.staged else []))
    except Exception as error:
        traceback.print_exc()
        figure, holds = f"could not be tried: {type(error).__name__}: {error}".splitlines()[0], False
    spent_s = time.monotonic() - begun
    verdict = "holds" if holds else "falls short"
    print(f"{proof.name:17} {proof.what}: {figure} [{spent_s:.0f} s, load {load:.1f}]: {verdict}", flush=True)
    told = {"name": proof.name, "what": proof.what, "figure": figure, "seconds": round(spent_s, 1)}
    return told | {"load": round(load, 2), "holds": holds}
