"""Merging the shards of an experiment: found, checked, and their files joined in the order of its queries."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any

from ..rerankers.errors import InputError
from ..rerankers.ledger import Ledger
from ..rerankers.types import plus
from .configs.load import Loaded
from .files import replacing
from .progress import Listener
from .run import manifest, unread
from .run.manifest import NAME as MANIFEST
from .run.shards import Shard, folders
from .verify import verify

SPARE_FILES = 64
"""How many files may be open besides one of each shard."""

AGAIN = "with the same config and settings"


@dataclass(frozen=True)
class Part:
    """A shard that was run: its folder, and what its manifest says."""

    shard: Shard
    path: Path
    manifest: Mapping[str, Any]

    @property
    def has_ranked(self) -> bool:
        """Whether any of its queries had candidates."""
        return "run.trec" in self.manifest["files"]

    def summary(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """What the manifest of the merged run says of it; its environment where it is not the one given."""
        kept = ("executions", "wall_seconds", "ledger", "shared_ledger", "files")
        found = {"number": self.shard.number, "of": self.shard.of, "manifest": self.manifest[manifest.SEAL]}
        found |= {"candidates": self.manifest["data"]["candidates"]} if self.has_ranked else {}
        found |= {} if self.manifest["environment"] == environment else {"environment": self.manifest["environment"]}
        return found | {name: self.manifest[name] for name in kept if name in self.manifest}


def find(loaded: Loaded) -> Path:
    """The folder in `runs/` that holds shards of a config.

    Raises `InputError` where there is none, or more than one.
    """
    name = loaded.config.name
    given = manifest.description(loaded.config, ())["config"]
    sharded = [run_dir for run_dir in sorted(Path("runs").glob(f"{name}-????????")) if folders(run_dir)]
    fitting = [run_dir for run_dir in sharded if any(_config(path) == given for path in folders(run_dir))]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(map(str, fitting or sharded))
    if fitting:
        raise InputError(f"config {name}: {len(fitting)} folders hold shards of it: {listed}; say which to merge")
    if sharded:
        raise InputError(
            f"config {name}: no shards of it with these settings; to merge those of other settings, name their folder: "
            f"{listed}"
        )
    raise InputError(f"config {name}: no shards of it in {Path.cwd() / 'runs'}; r2llm rerank --shard 1/16 makes one")


def check_config(parts: Sequence[Part], loaded: Loaded) -> None:
    """Raise `InputError` where none of the shards was ranked with a config."""
    given = manifest.description(loaded.config, ())["config"]
    if all(part.manifest["config"] != given for part in parts):
        differing = sorted({key for key, _ in _flat(given).items() ^ _flat(parts[0].manifest["config"]).items()})
        raise InputError(
            f"config {loaded.config.name}: the shards in {parts[0].path.parent} were not ranked with it; they differ "
            f"in {', '.join(differing)}: merge with their config and settings, or without --config"
        )


def gather(run_dirs: Sequence[Path], listener: Listener) -> list[Part]:
    """All shards of an experiment, in order, each as its manifest has it.

    `run_dirs` are folders of runs that hold shards, or folders of shards. Raises `InputError` that names the culprit
    where a shard is missing, there twice, not finished, of another experiment, or not what its manifest says.
    """
    paths = list(dict.fromkeys(path for run_dir in run_dirs for path in _shard_folders(run_dir)))
    parts = [_read(path) for path in paths]
    _check_one_experiment(parts)
    _check_each_once(parts)
    parts.sort(key=lambda part: part.shard.number)
    with listener.task("verifying shards", len(parts)) as advance:
        for done, part in enumerate(parts, 1):
            _check_whole(part)
            advance(done)
    _note_differences(parts, listener)
    return parts


def template(parts: Sequence[Part]) -> Part:
    """The shard whose config and machine stand for all: the first one that ranked anything."""
    return next((part for part in parts if part.has_ranked), parts[0])


def check_unchanged(parts: Sequence[Part]) -> None:
    """Raise `InputError` where a shard was run again since it was gathered: its files may have been read half new."""
    for part in parts:
        if manifest.intact(part.path / MANIFEST) != part.manifest:
            raise InputError(f"{part.path}: was changed while it was merged; merge again when it is finished")


def common_folder(parts: Sequence[Part]) -> Path:
    """The run's folder that all shards are in. Raises `InputError` where they are in several."""
    found = {part.path.parent for part in parts}
    if len(found) > 1:
        raise InputError(f"the shards are in {len(found)} folders: say with --output where the merged run is to be")
    return found.pop()


@dataclass(frozen=True)
class Joined:
    """What the shards' files came to."""

    queries: int
    """How many were ranked."""

    differing: int
    """How many keys of the ledger they answer differently."""


def join_files(parts: Sequence[Part], names: Iterable[str], target: Path, queries: Sequence[str]) -> Joined:
    """Join the shards' run files, costs and ledgers of these names into those of a run, in the order of the queries.

    No file is ever in memory. Raises `InputError` for a query that its shard should not have.
    """
    _allow_open_files(len(parts))
    ranked = [part for part in parts if part.has_ranked]
    count = differing = 0
    for name in names:
        if name.endswith(".sqlite"):
            differing = _join_ledgers([part.path / name for part in ranked], target / name, queries)
        elif name.endswith((".trec", ".jsonl")):
            with replacing(target / name) as stream:
                count = 0
                for lines in _joined_lines(parts, name, queries):
                    stream.writelines(lines)
                    count += 1
    return Joined(count, differing)


def _joined_lines(parts: Sequence[Part], name: str, queries: Iterable[str]) -> Iterator[list[str]]:
    """Each query's lines in a file of the shards, in the order of `queries`; those without any are left out."""
    key = _query_of_costs if name.endswith(".jsonl") else _query_of_run
    with ExitStack() as stack:
        streams = []
        for part in parts:
            lines: Iterable[str] = ()
            if part.has_ranked:
                lines = stack.enter_context((part.path / name).open(encoding="utf-8", newline="\n"))
            streams.append((query, list(group)) for query, group in groupby(lines, key))
        heads = [next(stream, None) for stream in streams]
        for position, query in enumerate(queries):
            number = position % len(parts)
            head = heads[number]
            if head is not None and head[0] == query:
                yield head[1]
                heads[number] = next(streams[number], None)
        for part, head in zip(parts, heads, strict=True):
            if head is not None:
                raise InputError(
                    f"{part.path / name}: query {head[0]} is not one of shard {part.shard}'s; the dataset may have "
                    "changed since: merge where it is as it was"
                )


def _join_ledgers(paths: Sequence[Path], target: Path, queries: Iterable[str]) -> int:
    """Write the ledger of all the answers; return how many keys are answered differently.

    Of several answers under one key that of the query that comes first is kept, as where all run together.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with ExitStack() as stack:
            sources = [stack.enter_context(closing(Ledger(path, read_only=True))) for path in paths]
            ledger = stack.enter_context(closing(Ledger(temporary)))
            differing = ledger.join(sources, {query: position for position, query in enumerate(queries)})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return differing


def joined_manifest(parts: Sequence[Part]) -> dict[str, Any]:
    """What all shards' manifests say, the sums of what they count, and which shards they are."""
    ranked = [part.manifest for part in parts if part.has_ranked]
    common = _common(ranked)
    environment = ranked[0]["environment"]
    shared = [each["shared_ledger"] for each in ranked if "shared_ledger" in each]
    executions = [execution for each in ranked for execution in each["executions"]]
    calls = reduce(plus, [execution["calls"] for execution in executions])
    started = min(each["started"] for each in ranked)
    ended = max(execution["ended"] or "" for execution in executions)
    for name in ("shard", "files", "wall_seconds", "ledger", "data", "finished", "warnings", manifest.SEAL):
        common.pop(name, None)
    return common | {
        "started": started,
        # One of them stands for all; the summary of a shard that ran elsewhere has its own environment.
        "config": ranked[0]["config"],
        "environment": environment,
        "executions": [{"status": "finished", "started": started, "ended": ended, "calls": calls, "answers_before": 0}],
        **{name: sum(each.get(name, 0) for each in ranked) for name in ("unparsed", "equal_scores")},
        **{name: _added(each[name] for each in ranked) for name in ("unparsed_by_kind", "answer_forms")},
        "unread": unread.joined(each.get("unread", {}) for each in ranked),
        "notes": list(dict.fromkeys(note for each in ranked for note in each.get("notes", ()))),
        # Shards may have run side by side, or one after the other: their times say nothing together.
        "wall_seconds": None,
        **({"shared_ledger": _added(shared)} if shared else {}),
        "merged": {"shards": [part.summary(environment) for part in parts], "differing_answers": 0},
    }


def _allow_open_files(count: int) -> None:
    """Let this process have so many files open, as far as the system allows it."""
    try:
        import resource
    except ImportError:  # not POSIX
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _shard_folders(run_dir: Path) -> list[Path]:
    if (run_dir / MANIFEST).is_file() and "shard" in _glance(run_dir):
        return [run_dir]
    found = folders(run_dir)
    if not found:
        raise InputError(f"{run_dir}: there are no shards in it; r2llm rerank --shard 1/16 makes one")
    return found


def _read(path: Path) -> Part:
    """The shard in a folder. Raises `InputError` where it is not finished, or its manifest was changed."""
    content = _glance(path)
    if content.get("status", "running") != "finished":
        named = f" --shard {Shard(**content['shard'])}" if "shard" in content else ""
        raise InputError(f"{path}: is not finished; run r2llm rerank{named} {AGAIN} again, and it goes on")
    try:
        content = manifest.intact(path / MANIFEST)
    except InputError as error:
        raise InputError(f"{path / MANIFEST}: {error}; remove {path} and run that shard again") from error
    if "shard" not in content:
        raise InputError(f"{path}: holds a whole run and no shard; remove it, or name the folders of shards one by one")
    return Part(Shard(**content["shard"]), path, content)


def _glance(path: Path) -> Mapping[str, Any]:
    """A manifest, unchecked; empty where there is none that can be read."""
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        return {"status": "finished"}  # whatever it was: the closer look tells what is wrong
    return found if isinstance(found, dict) else {"status": "finished"}


def _config(path: Path) -> object:
    return _glance(path).get("config")


def _check_one_experiment(parts: Sequence[Part]) -> None:
    """Refuse shards of another experiment than most, of another division, and of another name or schedule."""
    what = {
        "fingerprint": "another experiment",
        "of": "another division",
        "name": "another name",
        "schedule": "another schedule",
    }
    for key, words in what.items():
        values = [part.shard.of if key == "of" else part.manifest[key] for part in parts]
        most, _ = Counter(values).most_common(1)[0]
        for part, value in zip(parts, values, strict=True):
            if value != most:
                told = [str(each)[:8] if key == "fingerprint" else f"{each}" for each in (value, most)]
                raise InputError(
                    f"{part.path}: is of {words} ({key} {told[0]}) than most shards ({told[1]}); remove it, or merge "
                    "the shards of each by themselves"
                )


def _check_each_once(parts: Sequence[Part]) -> None:
    of = parts[0].shard.of
    found: dict[int, Path] = {}
    for part in parts:
        if part.shard.number in found:
            raise InputError(
                f"shard {part.shard} is there twice: {found[part.shard.number]} and {part.path}; remove one of them"
            )
        found[part.shard.number] = part.path
    missing = [f"{number}/{of}" for number in range(1, of + 1) if number not in found]
    if missing:
        more = f" (and {len(missing) - 5} more)" if len(missing) > 5 else ""
        raise InputError(
            f"{parts[0].path.parent}: {len(found)} of {of} shards are there; missing: {', '.join(missing[:5])}{more}; "
            f"run r2llm rerank --shard {missing[0]} {AGAIN}"
        )


def _check_whole(part: Part) -> None:
    for check in verify(part.path, Listener(), alone=True):
        if check.state != "agrees":
            raise InputError(
                f"{part.path / check.file}: {check.what}: {check.detail}; remove {part.path} and run "
                f"r2llm rerank --shard {part.shard} {AGAIN}"
            )


def _note_differences(parts: Sequence[Part], listener: Listener) -> None:
    """Say where the shards' configs differ, in what cannot change a ranking."""
    configs = [part.manifest["config"] for part in parts]
    if any(config != configs[0] for config in configs):
        flat = [_flat(config).items() for config in configs]
        keys = sorted({key for items in flat for key, _ in items ^ flat[0]})
        shard = template(parts).shard
        listener.note(f"the shards' configs differ in {', '.join(keys)}; the merged run has that of shard {shard}")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": repr(value)}
    return flat


def _common(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all mappings have, with the same value; of a value that is a mapping itself, what is common in that."""
    found: dict[str, Any] = {}
    for key, value in mappings[0].items():
        others: list[Any] = [mapping.get(key) for mapping in mappings[1:]]
        if all(other == value for other in others):
            found[key] = value
        elif all(isinstance(each, Mapping) for each in (value, *others)):
            found[key] = _common([mapping[key] for mapping in mappings])
        elif isinstance(value, list) and all(isinstance(each, list) and len(each) == len(value) for each in others):
            found[key] = _common_items([value, *others])
    return found


def _common_items(lists: Sequence[Sequence[Any]]) -> list[Any]:
    """Lists of mappings, such as the models of a cascade's stages, item by item; of others the first."""
    if not all(isinstance(item, Mapping) for items in lists for item in items):
        return list(lists[0])
    return [_common(items) for items in zip(*lists, strict=True)]


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def _query_of_run(line: str) -> str:
    return line.partition(" ")[0]


def _query_of_costs(line: str) -> str:
    return str(json.loads(line)["query_id"])
