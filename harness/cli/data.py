"""`speedrun data`: fetch, check, list and pack token shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.data.check import CheckResult
    from harness.terminal import Terminal
    from harness.tracks.track import Track

app = typer.Typer(
    help="Token shards: fetch them, check them, list them, make own ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TrackName = Annotated[
    str, typer.Option("--track", help="Whose data: a track's name or .toml file.")
]
Root = Annotated[
    Path | None,
    typer.Option("--dir", help="Folder that holds data/<dataset>/. Default: DATA_PATH or ."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.command()
def fetch(
    track: TrackName = "small",
    shards: Annotated[
        int | None, typer.Option(min=1, help="Train shards to have. Default: enough for a run.")
    ] = None,
    dir_: Root = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Commit of the hub's dataset. Default: as fetched before, else main."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Folder or web address of a mirror, instead of the hub."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Fetch a track's token shards, prove each one, and write manifest.json beside them.

    Goes on where an interrupted fetch stopped. A shard gets its name only when its sha256, header
    and token ids are right; one that is here and right is left alone.
    """
    from harness.data.fetch import FetchRequest
    from harness.data.fetch import fetch as fetch_shards
    from harness.data.progress import ByteBar
    from harness.data.stream import data_root
    from harness.terminal import Terminal

    terminal = Terminal()
    chosen = _track(track)
    root = data_root(chosen, dir_)
    if chosen.data.kind == "synthetic":
        _make_synthetic(chosen, root, terminal, json_)
        return
    count = shards or chosen.data.minimum_train_shards
    result = fetch_shards(FetchRequest(chosen, root, count, revision, from_), ByteBar(terminal))
    tokens = sum(shard.tokens for shard in result.shards)
    terminal.success(f"{len(result.shards)} shards, {tokens:,} tokens, manifest.json beside them")
    unvouched = sum(shard.vouched_by == "this machine" for shard in result.shards)
    if unvouched:
        terminal.warning(
            f"the source states no hashes for {unvouched} of them: format and token ids are right, "
            "whose tokens they are nobody vouches for"
        )
    if json_:
        terminal.json(result.document())


@app.command()
def check(track: TrackName = "small", dir_: Root = None, json_: AsJson = False) -> None:
    """Read every shard and say what is wrong with it: truncated, edited, swapped, duplicated, …

    Exit code 0 nothing is wrong, 3 a shard contradicts format, rules or manifest, 4 shards are
    missing.
    """
    from harness.data.check import check_data
    from harness.data.progress import ByteBar
    from harness.data.stream import data_root
    from harness.terminal import Terminal

    terminal = Terminal()
    chosen = _track(track)
    root = data_root(chosen, dir_)
    result = check_data(chosen, root, _fetch_command(track, root), ByteBar(terminal))
    _show_check(result, terminal)
    if json_:
        terminal.json(result.document())
    raise typer.Exit(result.exit_code)


@app.command("list")
def list_(track: TrackName = "small", dir_: Root = None, json_: AsJson = False) -> None:
    """List the shards that are here, and say whether they are enough for one run.

    Reads headers and manifest only; `speedrun data check` reads every byte. Exit code 4 if a run
    would miss some.
    """
    from harness.data.inventory import take_inventory
    from harness.data.progress import megabytes
    from harness.data.stream import data_root
    from harness.terminal import Terminal

    terminal = Terminal()
    chosen = _track(track)
    root = data_root(chosen, dir_)
    found = take_inventory(chosen, root)
    terminal.info(str(found.folder))
    for origin, shards in found.by_origin().items():
        terminal.info(origin)
        rows = [
            (s.name, f"{s.tokens:,}", megabytes(s.bytes), (s.sha256 or "not known")[:12])
            for s in shards
        ]
        terminal.table("", ("file", ">tokens", ">size", "sha256"), rows)
    for shard in found.shards:
        if shard.fault:
            terminal.failure(f"  ✗ {shard.name}: {shard.fault}")
    terminal.info(f"{len(found.shards)} shards, {found.tokens:,} tokens")
    if found.lacks:
        terminal.warning(
            f"not enough for a run of track {chosen.name}: lacks {', '.join(found.lacks)}"
        )
        terminal.info(f"  fix: {_fetch_command(track, root)}")
    else:
        terminal.success(f"enough for a run of track {chosen.name}")
    if json_:
        terminal.json(found.document())
    raise typer.Exit(found.exit_code)


@app.command()
def pack(
    files: Annotated[list[Path], typer.Argument(help="Text files, UTF-8.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards.")],
    vocab: Annotated[
        Path | None,
        typer.Option(help="Rank file such as gpt2.tiktoken. Default: what tiktoken has cached."),
    ] = None,
    name: Annotated[
        str,
        typer.Option(help="Stem of the file names; a track reads its own alone (small: fineweb)."),
    ] = "text",
    documents: Annotated[
        str,
        typer.Option(
            help="How a file is cut: file (one document), blank-line, endoftext, jsonl, or auto: "
            "jsonl by its name, endoftext where that mark occurs, else file."
        ),
    ] = "auto",
    field: Annotated[str, typer.Option(help="Field of the text in JSON lines.")] = "text",
    shard_tokens: Annotated[
        int, typer.Option(help="Tokens after which a train shard ends, at a document's end.")
    ] = 100_000_000,
    val_tokens: Annotated[
        int, typer.Option(help="Tokens of the validation shard, taken first; 0 makes none.")
    ] = 10_485_760,
    json_: AsJson = False,
) -> None:
    """Make token shards from text files with GPT-2's byte-pair encoding.

    Each document is 50256 and its tokens; none is cut. The same input gives the same bytes.
    """
    from harness.data.documents import FORMS
    from harness.data.pack import PackRequest
    from harness.data.pack import pack as pack_files
    from harness.data.progress import ByteBar, megabytes
    from harness.data.vocabulary import load_vocabulary
    from harness.errors import UsageError
    from harness.terminal import Terminal

    form = next((known for known in FORMS if known == documents), None)
    if form is None:
        raise UsageError(f"no way to cut named {documents!r}", fix=f"one of {', '.join(FORMS)}")
    terminal = Terminal()
    request = PackRequest(tuple(files), out, name, form, field, shard_tokens, val_tokens)
    result = pack_files(request, load_vocabulary(vocab), ByteBar(terminal))
    for shard in result.shards:
        terminal.info(
            f"  ✓ {shard.name}  {shard.tokens:,} tokens  {megabytes(shard.bytes)}  "
            f"sha256 {shard.sha256[:12]}"
        )
    tokens = sum(shard.tokens for shard in result.shards)
    terminal.success(
        f"{result.documents:,} documents, {tokens:,} tokens in {len(result.shards)} shards, "
        f"manifest.json beside them: {result.folder}"
    )
    if json_:
        terminal.json(result.document())


def _track(name: str) -> Track:
    from harness.tracks.track import load_track

    return load_track(name)


def _fetch_command(track: str, root: Path) -> str:
    from shlex import quote

    return f"speedrun data fetch --track {quote(track)} --dir {quote(str(root))}"


def _make_synthetic(track: Track, root: Path, terminal: Terminal, as_json: bool) -> None:
    from harness.data.stream import data_folder
    from harness.synthetic import make_tiny_data

    made = [path.name for path in make_tiny_data(root).made]
    folder = data_folder(track, root)
    said = f"made {', '.join(made)}" if made else "already made"
    terminal.success(f"the data of track {track.name} are synthetic: {said} in {folder}")
    if as_json:
        terminal.json({"folder": str(folder), "made": made, "exit_code": 0})


def _show_check(result: CheckResult, terminal: Terminal) -> None:
    from collections import Counter

    from harness.data.progress import megabytes
    from harness.data.shard import ShardFacts

    terminal.info(str(result.folder))
    at_fault = {finding.name for finding in result.findings if finding.kind != "unproven"}
    for name, facts in result.facts.items():
        if name not in at_fault and isinstance(facts, ShardFacts):
            terminal.info(
                f"  ✓ {name}  {facts.tokens:,} tokens  {facts.documents:,} documents  "
                f"sha256 {facts.sha256[:12]}"
            )
    noted = Counter(
        note
        for facts in result.facts.values()
        if isinstance(facts, ShardFacts)
        for note in facts.notes
    )
    for note, count in noted.items():
        terminal.info(f"    {count} of {len(result.facts)}: {note}")
    for finding in result.findings:
        line = f"{finding.name}: {finding.what}"
        if finding.kind == "unproven":
            terminal.warning(f"  ? {line}")
        else:
            terminal.failure(f"  ✗ {line}")
        terminal.info(f"      fix: {finding.fix}")
    read = f"{megabytes(result.read_bytes)} read in {result.seconds:.1f} s"
    if result.read_bytes:
        read += f" ({megabytes(int(result.read_bytes / max(result.seconds, 1e-3)))}/s)"
    wrong = sum(finding.kind == "wrong" for finding in result.findings)
    missing = sum(finding.kind == "missing" for finding in result.findings)
    if wrong or missing:
        terminal.failure(f"{wrong} wrong, {missing} missing; {read}")
    else:
        unproven = " as far as it can be checked" if result.findings else ""
        terminal.success(f"{len(result.facts)} shards, all right{unproven}; {read}")
