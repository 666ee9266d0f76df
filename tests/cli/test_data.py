"""`speedrun data` as a person or a program meets it: words, JSON, exit codes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.synthetic import TRAIN_SHA256
from harness.tracks.track import track_text
from tests.data.shards import TRAIN_1, TRAIN_2, VAL, contents, lay_out, write_track


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `speedrun data …`."""
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, arguments)])
    said = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0 if code is None else 1, said.out, said.err


@pytest.fixture
def options(tmp_path: Path) -> tuple[object, ...]:
    track = write_track(tmp_path / "mini.toml", train=2)
    return ("--track", track, "--dir", tmp_path / "over here")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "mirror", contents())


def test_fetch_list_check_repair(
    capsys: pytest.CaptureFixture[str], options: tuple[object, ...], mirror: Path, tmp_path: Path
) -> None:
    code, out, err = run(capsys, "list", *options)
    assert (code, out) == (4, "")
    assert "not enough for a run of track small" in err
    assert f"speedrun data fetch --track {options[1]} --dir" in err

    code, out, err = run(capsys, "fetch", *options, "--from", mirror)
    assert (code, out) == (0, ""), err
    assert f"✓ {VAL}  20,000 tokens  41.0 kB" in err
    assert "3 shards, 60,000 tokens, manifest.json beside them" in err
    assert "whose tokens they are nobody vouches for" in err

    code, _, err = run(capsys, "list", *options)
    assert code == 0
    assert "enough for a run of track small" in err
    assert str(mirror) in err

    code, _, err = run(capsys, "check", *options)
    assert code == 0
    assert "3 shards, all right; 123.1 kB read" in err

    path = tmp_path / "over here/data/fineweb10B" / TRAIN_2
    path.write_bytes(path.read_bytes()[:-10])
    code, _, err = run(capsys, "check", *options)
    assert code == 3
    assert f"✗ {TRAIN_2}: truncated" in err
    assert "1 wrong, 0 missing" in err
    fix = next(line for line in err.splitlines() if line.strip().startswith("fix:"))
    code, _, err = run(capsys, "list", *options)
    assert code == 4
    assert f"lacks a sound {TRAIN_2}" in err

    # The remedy is a command line that works as it stands.
    command = shlex.split(fix.split("fix: speedrun data ")[1].split(" (")[0])
    assert run(capsys, *command)[0] == 0
    assert run(capsys, "check", *options)[0] == 0
    path.unlink()
    assert run(capsys, "check", *options)[0] == 4


def test_json_is_one_document(
    capsys: pytest.CaptureFixture[str], options: tuple[object, ...], mirror: Path
) -> None:
    code, out, _ = run(capsys, "fetch", *options, "--from", mirror, "--json")
    fetched = json.loads(out)
    assert fetched["exit_code"] == code == 0
    assert fetched["tokens"] == 60_000
    assert [shard["state"] for shard in fetched["shards"]] == ["fetched"] * 3

    code, out, _ = run(capsys, "list", *options, "--json")
    listed = json.loads(out)
    assert listed["exit_code"] == code == 0
    assert listed["enough_for_a_run"] is True
    assert [shard["sha256"] for shard in listed["shards"]] == [
        shard["sha256"] for shard in fetched["shards"]
    ]

    (Path(listed["folder"]) / TRAIN_1).write_bytes(b"short")
    code, out, _ = run(capsys, "check", *options, "--json")
    checked = json.loads(out)
    assert checked["exit_code"] == code == 3
    assert [finding["name"] for finding in checked["findings"]] == [TRAIN_1]
    assert checked["shards"][VAL]["tokens"] == 20_000


def test_pack(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("tiktoken", reason="packing text needs the extra `data`")
    from tests.data.test_pack import rank_file

    text = tmp_path / "text.txt"
    text.write_text("one thing\n\nthe other\n\nand so on")
    arguments = ("pack", text, "--out", tmp_path / "out", "--vocab", rank_file(tmp_path / "ranks"))
    more = ("--val-tokens", 5, "--documents", "blank-line", "--json")
    code, out, err = run(capsys, *arguments, *more)
    assert code == 0, err
    document = json.loads(out)
    assert document["documents"] == 3
    assert [shard["name"] for shard in document["shards"]] == [
        "text_val_000000.bin",
        "text_train_000001.bin",
    ]
    assert "3 documents" in err
    code, _, err = run(capsys, *arguments, "--documents", "pages")
    assert code == 2
    assert "no way to cut named 'pages'" in err


def test_errors_are_messages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "fetch", "--track", "nope")
    assert code == 2
    assert "no track named 'nope'" in err
    code, _, err = run(capsys, "fetch", "--from", "gopher://x", "--dir", tmp_path)
    assert code == 2
    assert "cannot fetch gopher" in err
    code, _, err = run(capsys, "fetch", "--shards", "0")
    assert code == 2
    (tmp_path / "file").write_text("where a folder should be")
    code, _, err = run(capsys, "fetch", "--from", tmp_path, "--dir", tmp_path / "file")
    assert code == 4
    assert "cannot be written" in err
    assert "--dir" in err


@pytest.mark.skipif(not TRAIN_SHA256, reason="the tiny track's hashes are not stated yet")
def test_synthetic_data_are_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    track = tmp_path / "synthetic.toml"
    text = track_text("small").replace('kind = "shards"', 'kind = "synthetic"')
    for before, after in (
        ("data/fineweb10B", "data/tiny"),
        ("fineweb_", "tiny_"),
        ("validation_tokens = 10485760", "validation_tokens = 32768"),
        ("minimum_train_shards = 9", "minimum_train_shards = 1"),
    ):
        text = text.replace(before, after)
    track.write_text(text)
    for words in ("made", "already made"):
        code, _, err = run(capsys, "fetch", "--track", track, "--dir", tmp_path)
        assert code == 0, err
        assert words in err
    code, _, err = run(capsys, "check", "--track", track, "--dir", tmp_path)
    assert code == 0, err
    shard = next((tmp_path / "data/tiny").glob("*train*"))
    content = bytearray(shard.read_bytes())
    content[3000] ^= 1
    shard.write_bytes(content)
    code, _, err = run(capsys, "check", "--track", track, "--dir", tmp_path)
    assert code == 3
    assert "the track's rules state" in err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, harness.cli.data; "
        "print([m for m in ('numpy', 'pydantic', 'rich', 'huggingface_hub') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"
