"""Each mutant is a patch that still applies to the product, and names a scenario that there is."""

import ast
import re
from pathlib import Path

import pytest

from tests.chaos.mutants.__main__ import ROOT, Mutant, apply, mutants

ALL = mutants()


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_the_patch_applies_and_changes_the_product_alone(mutant: Mutant) -> None:
    apply(mutant.path, ROOT, check=True)
    changed = re.findall(r"^\+\+\+ b/(\S+)$", mutant.path.read_text(), re.MULTILINE)
    assert changed
    for name in changed:
        assert name.split("/")[0] in ("clockjack", "producer", "dispatcher", "consumers", "deploy")


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_the_mutant_is_python(mutant: Mutant, tmp_path: Path) -> None:
    for name in re.findall(r"^\+\+\+ b/(\S+)$", mutant.path.read_text(), re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    apply(mutant.path, tmp_path)
    for path in tmp_path.rglob("*.py"):
        ast.parse(path.read_text())


def test_there_are_enough_and_each_says_what_it_is() -> None:
    from tests.chaos.scenarios import MAKERS

    assert len(ALL) >= 12
    for mutant in ALL:
        assert set(mutant.scenario.split(",")) <= set(MAKERS), mutant
        assert mutant.seconds <= 60
        assert mutant.words.endswith(".")
        re.compile(mutant.caught)


def test_a_patch_that_does_not_apply_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        apply(ALL[0].path, tmp_path, check=True)
