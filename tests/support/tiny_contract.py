"""What both scripts of the tiny track must fulfil.

tests/baseline/test_tiny.py and tests/candidates/test_tiny.py subclass it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from harness.synthetic import make_tiny_data

ROOT = Path(__file__).resolve().parents[2]
SHORT: dict[str, Any] = {
    "steps": 6,
    "val_every": 3,
    "val_tokens": 4096,
    "lr_warmup_steps": 1,
    "seed": 20240520,
}

DRIVER = """
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location("tiny_script", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["tiny_script"] = module
spec.loader.exec_module(module)
module.main(module.Config(**json.loads(sys.argv[2])))
sys.stdout.flush()
os._exit(0)  # as the script itself ends, and for its reason
"""


@functools.cache
def load_script(path: Path) -> ModuleType:
    """The script as a module, under a name of its own."""
    name = f"{path.parent.name}_tiny"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def launch(script: Path, folder: Path, processes: int, **config: Any) -> str:
    """Standard output of one real run through torchrun; weights go to folder/weights."""
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment |= {"SPEEDRUN_CHECKPOINT": str(folder / "weights"), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, f"--nproc-per-node={processes}", str(driver), str(script), json.dumps(config)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def data_root(folder: Path) -> Path:
    """The folder, with the track's data in it."""
    make_tiny_data(folder)
    return folder


@functools.cache
def short_run(script: Path, folder: Path) -> str:
    """One short run of the script with two processes, for all tests that look at its outcome."""
    return launch(script, folder, 2, **SHORT)


class TinyContract:
    script: ClassVar[Path]

    @pytest.fixture
    def module(self) -> ModuleType:
        return load_script(self.script)

    @pytest.fixture
    def root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return data_root(tmp_path_factory.getbasetemp() / f"{self.script.parent.name}-tiny")

    @pytest.fixture
    def two(self, root: Path) -> str:
        """Output of a short run with two processes in `root`."""
        return short_run(self.script, root)

    @pytest.fixture
    def scorer(self, module: ModuleType, root: Path, two: str) -> Any:
        return module.load_scorer(root / "weights", "cpu")

    @pytest.fixture
    def val_tokens(self, root: Path) -> np.ndarray:
        tokens = np.fromfile(root / "data/tiny/tiny_val_000000.bin", dtype="<u2", offset=1024)
        return tokens[:4097].astype(np.int64)

    @pytest.fixture
    def alone(
        self,
        module: ModuleType,
        root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Callable[..., tuple[str, dict[str, Any]]]:
        """Runs the script in this process, without torchrun: (config) -> output and weights."""
        monkeypatch.setenv("DATA_PATH", str(root))
        monkeypatch.chdir(tmp_path)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)

        def run(**config: Any) -> tuple[str, dict[str, Any]]:
            weights = tmp_path / "weights"
            monkeypatch.setenv("SPEEDRUN_CHECKPOINT", str(weights))
            module.main(module.Config(**SHORT | config))
            return capsys.readouterr().out, module.load_scorer(weights).model.state_dict()

        return run

    # --- the printed lines ------------------------------------------------------------------------

    def test_the_lines_are_the_fields_own(self, two: str) -> None:
        form = re.compile(
            r"step:(\d+)/6 (val_loss:\d+\.\d{6} )?train_time:(\d+)ms step_avg:\d+\.\d\dms"
        )
        lines = [line for line in two.splitlines() if line.startswith("step:")]
        matches = [form.fullmatch(line) for line in lines]
        assert all(matches)
        steps = [(int(m[1]), bool(m[2])) for m in matches if m]
        validations, trained = [s for s, v in steps if v], [s for s, v in steps if not v]
        assert validations == [0, 3, 6]
        assert trained == [1, 2, 3, 4, 5, 6]
        assert steps[-1] == (6, True)
        times = [int(m[3]) for m in matches if m]
        assert times == sorted(times)

    def test_the_first_loss_is_that_of_knowing_nothing(self, two: str) -> None:
        first = re.search(r"step:0/6 val_loss:([\d.]+)", two)
        assert first is not None
        assert float(first[1]) == pytest.approx(math.log(256), abs=1e-5)

    def test_it_learns(self, two: str) -> None:
        losses = [float(x) for x in re.findall(r"val_loss:([\d.]+)", two)]
        assert losses[0] > losses[1] > losses[2]

    def test_the_log_file_begins_with_the_source(self, root: Path, two: str) -> None:
        (log,) = (root / "logs").iterdir()
        source, printed = log.read_text(encoding="utf-8").split("=" * 100 + "\n")
        assert source == self.script.read_text(encoding="utf-8")
        assert printed == two

    # --- protocol ---------------------------------------------------------------------------------

    def test_one_and_two_processes_make_the_same_updates(
        self, alone: Any, scorer: Any, two: str
    ) -> None:
        _, one = alone()
        assert one["head"].abs().max() > 0.02  # from zero: far more than the tolerance below
        for name, weights in scorer.model.state_dict().items():
            assert (weights - one[name]).abs().max() < 2e-4, name

    def test_the_untimed_steps_leave_no_trace(self, alone: Any) -> None:
        _, without = alone(untimed_steps=0)
        _, with_them = alone(untimed_steps=3)
        assert without.keys() == with_them.keys()
        for name in without:
            assert without[name].equal(with_them[name]), name

    def test_runs_differ_by_their_initial_weights(self, alone: Any) -> None:
        first, a = alone(seed=None)
        second, b = alone(seed=None)
        assert not a["attn"].equal(b["attn"])
        seeds = [re.search(r"seed (\d+)", out) for out in (first, second)]
        assert seeds[0] is not None
        assert seeds[1] is not None
        assert seeds[0][1] != seeds[1][1]

    def test_the_clock_counts_data_and_steps_but_no_validation(
        self, module: ModuleType, alone: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        validate, batches = module.validate, module.train_batches
        reads = []

        def slow_validate(*args: Any) -> float:
            time.sleep(1)
            return float(validate(*args))

        def slow_batches(*args: Any) -> Iterator[Any]:
            reads.append(args)
            time.sleep(0.5)
            yield from batches(*args)

        monkeypatch.setattr(module, "validate", slow_validate)
        monkeypatch.setattr(module, "train_batches", slow_batches)
        out, _ = alone()
        assert len(reads) == 2  # the untimed steps' reader and the run's own, opened by the clock
        train_ms = int(re.findall(r"train_time:(\d+)ms", out)[-1])
        assert 500 <= train_ms < 3000  # three validations take 3 s

    def test_the_global_batch_does_not_depend_on_the_world_size(
        self, module: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        monkeypatch.setenv("DATA_PATH", str(root))
        config = module.Config()
        tokens = np.fromfile(root / "data/tiny/tiny_train_000000.bin", dtype="<u2", offset=1024)
        batch = config.batch_seqs * config.seq_len
        for world in (1, 2, 4):
            readers = [module.train_batches(config, rank, world) for rank in range(world)]
            for step in range(3):
                parts = [next(reader) for reader in readers]
                inputs, targets = (torch.cat(side).flatten() for side in zip(*parts, strict=True))
                start = step * batch
                assert inputs.tolist() == tokens[start : start + batch].tolist()
                assert targets.tolist() == tokens[start + 1 : start + batch + 1].tolist()

    def test_the_schedule(self, module: ModuleType) -> None:
        config = module.Config(steps=100, lr_warmup_steps=10, cooldown=0.5)
        at = {step: module.lr_factor(step, config) for step in (0, 9, 50, 75, 99)}
        assert at == pytest.approx({0: 0.1, 9: 1, 50: 1, 75: 0.5, 99: 0.02})

    # --- checkpoint and scorer --------------------------------------------------------------------

    def test_the_scorer_repeats_the_printed_loss(
        self, scorer: Any, two: str, val_tokens: np.ndarray
    ) -> None:
        printed = float(re.findall(r"val_loss:([\d.]+)", two)[-1])
        nll = scorer.nll(val_tokens)
        assert nll.shape == (4096,)
        assert float(nll.double().mean()) == pytest.approx(printed, abs=1e-5)

    def test_the_scorer_is_causal(self, scorer: Any, val_tokens: np.ndarray) -> None:
        whole = scorer.nll(val_tokens)
        for cut in (1, 2, 100, 128, 129, 1000):
            assert scorer.nll(val_tokens[: cut + 1]).equal(whole[:cut])
            changed = val_tokens.copy()
            changed[cut + 1 :] = 7
            assert scorer.nll(changed)[:cut].equal(whole[:cut])

    def test_rows_are_distributions_and_agree_with_nll(
        self, scorer: Any, val_tokens: np.ndarray
    ) -> None:
        positions = [0, 1, 127, 128, 999, 4000]
        rows = scorer.logprobs(val_tokens, positions)
        assert rows.shape == (6, 256)
        assert rows.logsumexp(-1).abs().max() < 1e-5
        nll = scorer.nll(val_tokens)
        for row, p in zip(rows, positions, strict=True):
            assert float(row[val_tokens[p + 1]]) == -float(nll[p])

    def test_the_scorer_takes_any_length(self, scorer: Any, val_tokens: np.ndarray) -> None:
        assert scorer.nll([]).shape == (0,)
        assert scorer.nll([0]).shape == (0,)
        assert scorer.nll(np.concatenate([val_tokens, val_tokens])).shape == (2 * 4097 - 1,)

    def test_without_safetensors_the_checkpoint_is_weights_only(
        self, module: ModuleType, scorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # import raises ImportError
        path = tmp_path / "deep" / "weights.pt"
        module.save_checkpoint(scorer.model, path)
        assert path.read_bytes()[:2] == b"PK"
        again = module.load_scorer(path).model.state_dict()
        assert all(again[k].equal(v) for k, v in scorer.model.state_dict().items())
        assert [p.name for p in path.parent.iterdir()] == ["weights.pt"]

    # --- unfit surroundings -----------------------------------------------------------------------

    def test_a_world_of_three_is_refused(
        self, module: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "3")
        with pytest.raises(SystemExit, match="1, 2 or 4 processes"):
            module.main()

    def test_missing_data_and_spent_data_are_said(
        self, module: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATA_PATH", str(tmp_path))
        with pytest.raises(SystemExit, match="set DATA_PATH"):
            next(module.train_batches(module.Config(), 0, 1))
        monkeypatch.setenv("DATA_PATH", str(root))
        with pytest.raises(SystemExit, match="used up"):
            list(module.train_batches(module.Config(batch_seqs=2048), 0, 1))
        (tmp_path / "data/tiny").mkdir(parents=True)
        (tmp_path / "data/tiny/tiny_train_000000.bin").write_bytes(b"not a shard")
        monkeypatch.setenv("DATA_PATH", str(tmp_path))
        with pytest.raises(SystemExit, match="no token shard"):
            next(module.train_batches(module.Config(), 0, 1))
