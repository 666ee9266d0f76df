"""compare_small.py's arithmetic: whose turn it is, and paired differences."""

import importlib.util
import sys

import pytest

from tests.candidates.tiny_small import ROOT


def load_tool():
    path = ROOT / "tests" / "candidates" / "compare_small.py"
    spec = importlib.util.spec_from_file_location("compare_small", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_small"] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def test_every_program_has_every_place_equally_often() -> None:
    for count in (2, 3):
        places = [[0] * count for _ in range(count)]
        for turn in range(-2, 4 * count - 2):
            for place, program in enumerate(tool.order(count, turn)):
                places[program][place] += 1
        assert places == [[4] * count] * count


def test_differences_are_paired() -> None:
    """A drift that both share does not count: 1, 2 and 3 more, whatever the rounds took."""
    mean, error = tool.difference([10.0, 20.0, 40.0], [11.0, 22.0, 43.0])
    assert mean == pytest.approx(2.0)
    assert error == pytest.approx(1 / 3**0.5)
    line = tool.describe("--record 84", [11.0, 22.0, 43.0], [10.0, 20.0, 40.0])
    assert line == "    22.000 ms  --record 84: +2.000 +- 0.577 ms"
    assert tool.describe("", [3.0, 1.0], None) == "     2.000 ms  (the default program)"


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    with pytest.raises(SystemExit) as stop:
        tool.main(["--stages", "4", ""])
    assert stop.value.code == 2
    if not torch.cuda.is_available():
        assert tool.main([""]) == 4
        assert "needs a GPU" in capsys.readouterr().err
