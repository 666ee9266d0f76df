"""ablate_small.py, and what each of the fourteen switches does to a run."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from tests.candidates.tiny_small import ROOT, load_script, tiny_config, write_data

small = load_script()


def load_tool():
    spec = importlib.util.spec_from_file_location(
        "ablate", ROOT / "tests" / "candidates" / "ablate_small.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablate"] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()
NAMES = tool.EARLY + tool.LATE


def test_the_fourteen_are_switches_of_the_script() -> None:
    assert len(NAMES) == len(set(NAMES)) == 14
    assert set(NAMES) <= set(small.switches(True))


# ------------------------------------------------------------------------- what a switch does


def weights_after(folder: Path, steps: int, **changes) -> dict[str, torch.Tensor]:
    """Weights after `steps` steps of a run of eight: stages of two, untied after step 5."""
    cfg = tiny_config(dtype="bfloat16", scheduled_steps=6, extension_steps=2, **changes)
    torch.manual_seed(3)
    trainer = small.Trainer(cfg, 0, 1, torch.device("cpu"), small.Log(1))
    loader = small.TrainLoader(cfg, 0, 1, torch.device("cpu"))
    losses = []
    trainer.forward = lambda *a: losses.append(trainer.model(*a)) or losses[-1]
    for step in range(steps):
        trainer.train_step(loader, step)
    assert all(loss.isfinite().all() for loss in losses)
    named = {n: p.detach().float() for n, p in trainer.model.named_parameters()}
    assert all(p.isfinite().all() for p in named.values())
    return named


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("ablations"), size=20_000)


@pytest.fixture(scope="module")
def everything_on(data: Path) -> dict[str, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_PATH", str(data))
        return weights_after(data, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_switch_changes_the_run(
    name: str, data: Path, everything_on: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight steps through all stages and the untying: finite, and other weights at the end."""
    monkeypatch.setenv("DATA_PATH", str(data))
    off = weights_after(data, 8, **{name: False})
    common = {n for n in off if n in everything_on and off[n].shape == everything_on[n].shape}
    assert {"qk_bank", "mlp_bank", "lm_head"} <= common
    moved = max((off[n] - everything_on[n]).abs().max().item() for n in common)
    assert moved > 1e-3, moved


@pytest.mark.slow
def test_the_same_run_twice_is_the_same(
    data: Path, everything_on: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above sees is the switch, not noise."""
    monkeypatch.setenv("DATA_PATH", str(data))
    again = weights_after(data, 8)
    assert all(torch.equal(again[n], everything_on[n]) for n in again)


# ------------------------------------------------------------------------- the tool


def test_runs_and_their_arguments() -> None:
    runs = tool.runs_of(["xsa", "yarn"], [1, 2])
    assert [(r.off, r.whole, r.seed) for r in runs] == [
        ("", False, 1), ("", True, 1), ("xsa", False, 1), ("yarn", True, 1),
        ("", False, 2), ("", True, 2), ("xsa", False, 2), ("yarn", True, 2),
    ]  # fmt: skip
    assert len(tool.runs_of(NAMES, [1])) == 16
    for run in tool.runs_of(NAMES, [1]):
        cfg, options = small.parse(run.arguments(300))
        assert (cfg.total_steps if options["last"] is None else options["last"]) == 300
        assert options["seed"] == 1
        off = {n for n in small.switches(True) if not getattr(cfg, n)}
        assert off == ({run.off} if run.off else set())


def test_everything_in_the_whole_schedule() -> None:
    runs = tool.runs_of(["xsa", "yarn"], [1], [89], whole=True)
    assert [(r.off, r.whole, r.record) for r in runs] == [
        ("", True, 84), ("xsa", True, 84), ("yarn", True, 84), ("", True, 89),
    ]  # fmt: skip
    rows = list(tool.table({run: 4.0 for run in runs}, ["xsa"], [1], whole=True))
    assert rows[-1] == "| `xsa` | whole schedule | +0.0000 | 1 |"


def test_programs_of_later_records() -> None:
    """Against the reference of the whole schedule, which comes along."""
    runs = tool.runs_of(["xsa"], [1], [85, 89])
    assert [(r.off, r.whole, r.record) for r in runs] == [
        ("", False, 84), ("", True, 84), ("xsa", False, 84), ("", True, 85), ("", True, 89),
    ]  # fmt: skip
    cfg, _ = small.parse(runs[-1].arguments(300))
    assert cfg.fp8_down
    assert (cfg.total_steps, cfg.extension_steps) == (300, 15)
    losses = {run: 4.0 - run.record / 1000 for run in runs}
    rows = list(tool.table(losses, ["xsa"], [1], [85, 89]))
    assert rows[-2:] == [
        "| record 85 over 84 | whole schedule | +0.0010 | 1 |",
        "| record 89 over 84 | whole schedule | +0.0050 | 1 |",
    ]
    assert str(runs[-1]) == "record 89, whole schedule, seed 1"


STAND_IN = """
import sys
given = sys.argv[1:]
off = given[given.index("--ablate") + 1] if "--ablate" in given else ""
if off == "smear":
    sys.exit("out of memory")
loss = 4.0 + {"": 0, "xsa": 0.25, "yarn": -0.5}[off] + ("--schedule" in given)
print("step:100/30 val_loss:9.0 train_time:1ms step_avg:1.00ms")
print(f"step:30/30 val_loss:{loss} train_time:1ms step_avg:1.00ms")
"""


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each against the reference of its own kind; what failed is said and not in the table."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    command = [sys.executable, str(script)]
    arguments = ["--only", "xsa,yarn,smear", "--steps", "30", "--seeds", "1,2"]
    assert tool.main(arguments, command) == 5
    out = capsys.readouterr().out
    assert "| `xsa` | first steps | +0.2500 | 2 |" in out
    assert "| `yarn` | whole schedule | -0.5000 | 2 |" in out
    assert "| `smear` | first steps | not measured | 0 |" in out
    assert "smear, first steps, seed 1: failed\nout of memory" in out
    assert tool.main(["--only", "xsa", "--steps", "30"], command) == 0


@pytest.mark.parametrize("argv", [["--only", "nothing"], ["--steps", "10"]])
def test_bad_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.main(argv)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err
