"""Rule sets: the shipped ones parse, a bad one is refused by the name of its field."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.stats.sequential import flat_p_bound
from harness.tracks.track import (
    Track,
    load_track,
    parse_track,
    track_names,
    track_sha256,
    track_text,
)
from tests.support.contest import TRACK

SHIPPED = track_names()


def test_the_known_tracks_are_there() -> None:
    assert {"small", "medium", "optimization"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_rule_set_is_sound(name: str) -> None:
    track = load_track(name)
    assert track.name == name
    assert track.baseline == f"baseline/{name}.py"
    assert track.design.stall_s <= track.design.timeout_s
    assert track.design.expected_run_s < track.design.timeout_s
    # No look is cheaper than a true level of alpha allows.
    bound = flat_p_bound(track.design.looks, track.contest.alpha)
    assert track.design.loss_p <= bound
    if track.contest.compared_on == "training time":
        assert track.design.timing_p <= bound
    if track.hardware.official_class is not None:
        assert track.hardware.official_class in track.hardware.classes
    gpus = [gpu for members in track.hardware.classes.values() for gpu in members]
    assert len(gpus) == len(set(gpus)), "a GPU belongs to one class"


@pytest.mark.parametrize("name", SHIPPED)
def test_toml_holds_no_field_twice_and_none_unknown(name: str) -> None:
    text = resources.files("harness.tracks").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    assert track_text(name) == text
    assert Track.model_validate(tomllib.loads(text)) == load_track(name)


BAD = [
    ("target_loss_nats = 3.28", 'target_loss_nats = "3.28"', "contest.target_loss_nats"),
    ("target_loss_nats = 3.28", "target_loss_nats = nan", "contest.target_loss_nats"),
    ("target_loss_nats = 3.28", "target_loss_nats = inf", "contest.target_loss_nats"),
    ("target_loss_nats = 3.28\n", "", "contest.target_loss_nats"),
    ("alpha = 0.01", "alpha = 0.0", "contest.alpha"),
    ("alpha = 0.01", "alpha = 0.7", "contest.alpha"),
    ('compared_on = "training time"', 'compared_on = "luck"', "contest.compared_on"),
    ('loss_rule = "t-test"', 'loss_rule = "z"', "contest.loss_rule"),
    ("loss_sd_nats = 0.0014", "loss_sd_nats = 0.0", "contest.loss_sd_nats"),
    ("loss_per_100_steps_nats = 0.0129", "loss_per_100_steps_nats = -1.0", "contest.loss_per_100"),
    ("buffer_nats = 0.001", "buffer_nats = -0.001", "contest.buffer_nats"),
    ("rules_version = 1", "rules_version = 0", "contest.rules_version"),
    ('name = "fake"', 'name = "../fake"', "contest.name"),
    ('title = "a contest of fake trainers"', "title = 3", "contest.title"),
    ("validation_tokens = 10", "validation_tokens = 0", "data.validation_tokens"),
    ("validation_tokens = 10", "validation_tokens = 10.5", "data.validation_tokens"),
    ('folder = "data/fake"\n', "", "data.folder"),
    ("processes = 1", "processes = 0", "hardware.processes"),
    ('kind = "cpu"', 'kind = "tpu"', "hardware.kind"),
    ('launcher = "python"', 'launcher = "bash"', "hardware.launcher"),
    ("looks = [5, 10, 15, 20]", "looks = []", "design.looks"),
    ("looks = [5, 10, 15, 20]", "looks = [1, 10]", "design.looks"),
    ("looks = [5, 10, 15, 20]", "looks = [5, 5]", "design.looks"),
    ("looks = [5, 10, 15, 20]", "looks = [10, 5]", "design.looks"),
    ("looks = [5, 10, 15, 20]", 'looks = ["5"]', "design.looks.0"),
    ("loss_p = 0.0031", "loss_p = 0.0", "design.loss_p"),
    ("timing_p = 0.0031", "timing_p = 1.0", "design.timing_p"),
    ("timeout_s = 30", "timeout_s = 0", "design.timeout_s"),
    ("stall_s = 20", "stall_s = -1", "design.stall_s"),
    ("expected_run_s = 0.2", "expected_run_s = nan", "design.expected_run_s"),
    ("schema_version = 1", "schema_version = 2", "schema_version"),
    ("[compile]", "[compile]\nmode = 1", "compile.mode"),
    ('baseline = "baseline/fake.py"\n', "", "baseline"),
]


@pytest.mark.parametrize(("before", "after", "field"), BAD)
def test_a_bad_field_is_named(before: str, after: str, field: str) -> None:
    text = TRACK.replace(before, after, 1)
    assert text != TRACK
    with pytest.raises(UsageError) as caught:
        parse_track(text, "mine.toml")
    assert field in caught.value.where
    assert "mine.toml" in caught.value.where
    assert caught.value.why


@pytest.mark.parametrize("text", ["[contest", "= 1", "a = 1\na = 2", "a = " + "[" * 5000])
def test_what_is_no_toml_is_said_so(text: str) -> None:
    with pytest.raises(UsageError, match="not TOML"):
        parse_track(text, "mine.toml")


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(UsageError):
        parse_track(text, "mine.toml")


def test_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no track named 'huge'") as caught:
        load_track("huge")
    assert "small" in caught.value.why
    with pytest.raises(UsageError, match="no track file"):
        load_track(str(tmp_path / "none.toml"))
    path = tmp_path / "mine.toml"
    path.write_text(TRACK, encoding="utf-8")
    assert load_track(str(path)).name == "fake"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_track(str(path))


def test_hash_ignores_windows_line_ends_and_nothing_else() -> None:
    assert track_sha256(TRACK) == track_sha256(TRACK.replace("\n", "\r\n"))
    assert track_sha256(TRACK) != track_sha256(TRACK.replace("0.0031", "0.0032"))


def test_every_field_but_the_plain_ones_says_what_it_means() -> None:
    schema: dict[str, Any] = Track.model_json_schema()
    text = str(schema)
    for words in ("flat p bound", "pooled run-to-run sd", "longest silence", "class name"):
        assert re.search(words, text), words
