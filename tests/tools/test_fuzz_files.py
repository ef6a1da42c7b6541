"""Damaged models through the command line: a few dozen of those of tools/fuzz_files.py."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_condense.model.runtime import run, session

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from _mutants import MUTATIONS, mutant  # noqa: E402
from _seed_models import seeds  # noqa: E402


def test_the_seed_models_run() -> None:
    for model in seeds().values():
        [given] = session(model).get_inputs()
        feed = {given.name: np.ones([size if isinstance(size, int) else 2 for size in given.shape], dtype=np.float32)}
        run(session(model), None, feed)


def test_every_mutation_damages_some_model_and_is_the_same_again() -> None:
    known = list(seeds().values())
    for name, change in MUTATIONS.items():
        changed = 0
        for number in range(14):
            made = []
            for _ in range(2):
                model = onnx.ModelProto.FromString(known[number % len(known)].SerializeToString())
                try:
                    change(model, random.Random(number))
                except (IndexError, KeyError, ValueError, TypeError, StopIteration):
                    continue
                made.append(model.SerializeToString(deterministic=True))
            assert len(set(made)) <= 1
            changed += bool(made) and made[0] != known[number % len(known)].SerializeToString(deterministic=True)
        assert changed, name
    data = known[0].SerializeToString()
    assert [mutant(data, random.Random(n)) for n in range(9)] == [mutant(data, random.Random(n)) for n in range(9)]


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="mutants run in forks")
def test_some_damaged_models_end_as_they_must(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "fuzz_files.py", "--count", "24", "--seed", "1", "--small"]
    done = subprocess.run([*command, "--keep", tmp_path], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["wrong"] == 0
