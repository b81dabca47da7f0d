"""Merging the shards of an experiment: all there, whole, and of one experiment, they are ranked once more as one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from ..rerankers.backends.replay import Recorded
from ..rerankers.errors import InputError, StoppedError
from ..rerankers.ledger import Ledger
from ..rerankers.types import plus
from ..rerankers.writing import replacing
from . import experiment, launchers
from .configs import load as configs
from .configs.load import Loaded
from .first_stage.retrieve import dataset_with_index
from .io.files import json_lines
from .io.progress import Jobs, Listener
from .run import manifest, runfile
from .run.folder import LEDGER, RunFolder
from .run.manifest import NAME as MANIFEST
from .run.manifest import Manifest, Merged
from .run.plan import Plan
from .run.read import Run, read
from .run.shards import FOLDERS, Shard, folders
from .verify import compared, verify

AGAIN = "with the same config and settings"

KEPT = ("executions", "wall_seconds", "ledger", "shared_ledger", "files", "environment")
"""Fields of a shard's manifest that the merged run's has too, beside its number and hashes."""


@dataclass(frozen=True)
class Part:
    """A finished shard: its folder and its manifest."""

    shard: Shard
    path: Path
    manifest: Manifest

    @property
    def summary(self) -> dict[str, Any]:
        """The shard in the manifest of the merged run."""
        about = self.manifest.content
        content: dict[str, Any] = about["shard"] | {
            "manifest": about[manifest.SEAL],
            "candidates": about["data"].get("candidates"),
        }
        return content | {name: about[name] for name in KEPT if name in about}


def find(loaded: Loaded) -> Path:
    """Return the folder in `runs/` that holds shards of a config. Raises `InputError` unless there is just one."""
    name, config = loaded.config.name, manifest.description(loaded.config, ())["config"]
    sharded = [run_dir for run_dir in sorted(Path("runs").glob(f"{name}-????????")) if folders(run_dir)]
    fitting = [
        run_dir
        for run_dir in sharded
        if any(manifest.read(path).content["config"] == config for path in run_dir.glob(f"{FOLDERS}/{MANIFEST}"))
    ]
    if len(fitting) != 1:
        listed = ", ".join(map(str, fitting or sharded)) or f"none is in {Path.cwd() / 'runs'}"
        remedy = f"r2llm rerank --shard 1/16 makes one; to merge those of other settings, name their folder: {listed}"
        raise InputError(f"config {name}: {len(fitting)} folders hold shards of it with these settings; {remedy}")
    return fitting[0]


def rank(words: Sequence[str], logs: Path, of: int, launch: launchers.Launch, listener: Listener) -> list[Run | str]:
    """Run `r2llm rerank` with these words for each of `of` shards; return the run of each, or its error."""
    shards = [Shard(number, of) for number in range(1, of + 1)]
    tasks = [
        launchers.Task(f"shard {shard}", [*words, "--shard", str(shard), "--json"], logs / f"{shard.folder}.log")
        for shard in shards
    ]
    ended: list[Run | str] = [""] * of
    with listener.task("shards", of) as advance:
        jobs = Jobs(listener, advance)
        try:
            for number, end in launchers.run(launch, tasks, jobs):
                ended[number] = read(Path(json.loads(end.out)["run_dir"])) if end.out else end.error or ""
                jobs.advance(tasks[number].name, None)
        except KeyboardInterrupt:
            kept = f"{jobs.through} of {of} shards are through, and the answers of the others so far are kept"
            raise StoppedError(f"stopped; {kept}; the same command goes on") from None
    return ended


def merge(run_dirs: Sequence[Path], output: Path | None, listener: Listener, loaded: Loaded | None = None) -> Run:
    """Rank once more from the ledgers of the shards in these folders, into `output` or the folder they are in.

    No model is asked or needed; the dataset is. `loaded` is the config that was sharded, by default the shards' own.
    Raises `InputError` if they are not all there and whole, or do not have every answer.
    """
    shards = Shards(run_dirs, listener)
    original, source = shards.first.manifest, shards.first.path
    own = loaded or configs.of_run(source)
    try:
        plan = shards.plan(own, listener)
    except InputError as error:
        raise error if loaded else InputError(f"{error}; if the shards were moved, give --config too") from error
    if plan.fingerprint != original.fingerprint:
        keys = _differing([original.content["experiment"], plan.content])
        problem = f"is another experiment than {source}; they differ in {keys}"
        raise InputError(f"config {own.config.name}: {problem}: merge with the config and the r2llm of the shards")
    path = output or shards.folder
    with RunFolder(path, plan.fingerprint) as folder:
        if folder.earlier and folder.earlier.merged is None:
            raise InputError(f"{path}: holds a run that was not merged; merge into another folder with --output")
        # Until it is whole, whoever looks at it is told that it is not finished.
        folder.write_manifest(original.model_copy(update={"status": "running", "merged": Merged()}))
        rows = (row for part in shards.ranked for _, row in json_lines(part.path / "costs.jsonl"))
        folder.write_json_lines("costs.jsonl", rows)
        differing = shards.join_ledgers(folder / LEDGER, plan.first_stage.queries)
        if differing:
            listener.note(f"{differing} answers differ between shards; those of the first query that asked were kept")
        about = experiment.rank(plan, folder, listener, original)
        folder.write_yaml("config.yaml", experiment.resolved(own.config, folder.path, None if loaded else source))
        experiment.record(plan, folder, Manifest.model_validate(about.content | shards.content(differing)))
    return replace(read(path), expected=experiment.comparable(loaded, listener) if loaded else {})


class Shards:
    """All shards of an experiment, in order.

    `run_dirs` are folders of runs that hold shards, or folders of shards. Raises `InputError` that names the culprit if
    a shard is missing, there twice, not finished, of another experiment, or not what its manifest says.
    """

    def __init__(self, run_dirs: Sequence[Path], listener: Listener) -> None:
        paths = dict.fromkeys(path for run_dir in run_dirs for path in folders(run_dir) or [run_dir])
        self.parts = sorted(map(_part, paths), key=lambda part: part.shard.number)
        self._check_all_there()
        with listener.task("verifying shards", len(self.parts)) as advance:
            for done, part in enumerate(self.parts, 1):
                for check in verify(part.path, Listener(), alone=True):
                    if check.state != "agrees":
                        remedy = f"remove {part.path} and run r2llm rerank --shard {part.shard} {AGAIN}"
                        raise InputError(f"{part.path / check.file}: {check.what}: {check.detail}; {remedy}")
                advance(done)
        self.ranked = [part for part in self.parts if "run.trec" in part.manifest.files]
        if not self.ranked:
            raise InputError("none of the queries has candidates; check that queries and first stage belong together")
        self.first = self.ranked[0]
        if keys := _differing([part.manifest.content["config"] for part in self.parts]):
            listener.note(f"the shards' configs differ in {keys}; the merged run has that of shard {self.first.shard}")

    def _check_all_there(self) -> None:
        first, of = self.parts[0], self.parts[0].shard.of
        numbers = {part.shard.number: part for part in self.parts}
        for key, what in (("fingerprint", "experiment"), ("of", "division"), ("name", "name"), ("schedule",) * 2):
            for part in self.parts:
                one, other = (getattr(each.shard if key == "of" else each.manifest, key) for each in (part, first))
                if one != other:
                    problem = f"is of another {what} ({str(one)[:8]}) than {first.path} ({str(other)[:8]})"
                    raise InputError(f"{part.path}: {problem}; remove it, or merge the shards of each by themselves")
        for part in self.parts:
            if (same := numbers[part.shard.number]) is not part:
                raise InputError(f"shard {part.shard} is there twice: {part.path} and {same.path}; remove one of them")
        if missing := [str(Shard(number, of)) for number in range(1, of + 1) if number not in numbers]:
            raise InputError(
                f"{first.path.parent}: {len(self.parts)} of {of} shards are there; missing: {', '.join(missing)}; run "
                f"r2llm rerank --shard {missing[0]} {AGAIN}"
            )

    @property
    def folder(self) -> Path:
        """The run's folder that all shards are in. Raises `InputError` if they are in several."""
        parents = {part.path.parent for part in self.parts}
        if len(parents) > 1:
            raise InputError(
                f"the shards are in {len(parents)} folders: say with --output where the merged run is to be"
            )
        return parents.pop()

    def plan(self, loaded: Loaded, listener: Listener) -> Plan:
        """Return the experiment of all shards. Raises `InputError` if the dataset's queries are not theirs."""
        whole, hits = self.first.manifest.model_copy(update={"shard": None}), runfile.Run()
        for part in self.ranked:
            hits |= runfile.read(part.path / "first_stage.trec", intern=True)[0]
        dataset = dataset_with_index(loaded, listener)
        plan = experiment.recorded(loaded, dataset, whole, hits, self.models(), listener)
        if plan.data["queries"] != whole.first_stage["queries"]:
            raise InputError(
                f"dataset {dataset.name}: its queries are not those of {self.first.path}; merge where they are"
            )
        # Else each query would read the documents' file anew.
        plan.first_stage.docs.missing(doc for docs in plan.first_stage.documents.values() for doc in docs)
        return plan

    def models(self) -> list[Recorded]:
        """Return the model of each stage, with what all shards say of it."""
        identities = [stage.model for stage in self.first.manifest.stages]
        details = zip(*(part.manifest.stage_models for part in self.ranked), strict=True)
        return [
            Recorded(
                identity, {key: value for key, value in one.items() if all(each.get(key) == value for each in same)}
            )
            for identity, (one, *same) in zip(identities, details, strict=True)
        ]

    def join_ledgers(self, target: Path, queries: Iterable[str]) -> int:
        """Write the ledger of all answers; return the number of keys that the shards answer differently.

        Of such answers that of the first query is kept, as if all were ranked together.
        """
        with suppress(ImportError, ValueError, OSError):  # as many files as the system allows: each shard has one
            import resource

            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with replacing(target) as temporary, ExitStack() as stack:
            paths = [part.path / target.name for part in self.ranked]
            sources = [stack.enter_context(closing(Ledger(path, read_only=True))) for path in paths]
            ledger = stack.enter_context(closing(Ledger(temporary)))
            return ledger.join(sources, {query: position for position, query in enumerate(queries)})

    def content(self, differing: int) -> dict[str, Any]:
        """Return what the manifest of the merged run says of the shards and their executions."""
        about = [part.manifest.content for part in self.ranked]
        executions = [execution for each in about for execution in each["executions"]]
        started, calls = min(each["started"] for each in about), [execution["calls"] for execution in executions]
        merged = {
            "status": "finished",
            "started": started,
            "ended": max(execution["ended"] or "" for execution in executions),
            "calls": reduce(plus, calls),
            "answers_before": 0,
        }
        content = {
            "environment": about[0]["environment"],
            "started": started,
            "executions": [merged],
            "notes": list(dict.fromkeys(note for each in about for note in each.get("notes", ()))),
            # Shards may have run side by side, or one after the other: their times say nothing together.
            "wall_seconds": None,
            "merged": {"shards": [part.summary for part in self.parts], "differing_answers": differing},
        }
        if shared := [each["shared_ledger"] for each in about if "shared_ledger" in each]:
            content["shared_ledger"] = {name: sum(each[name] for each in shared) for name in sorted(shared[0])}
        return content


def _differing(trees: Sequence[Mapping[str, Any]]) -> str:
    lines = [line for tree in trees for line in compared(trees[0], tree)]
    return ", ".join(sorted({line.partition(":")[0].replace(" ", ".") for line in lines}))


def _part(path: Path) -> Part:
    about = manifest.read(path / MANIFEST) if (path / MANIFEST).is_file() else None
    if about.shard is None if about else not path.match(FOLDERS):
        raise InputError(f"{path}: there are no shards in it; r2llm rerank --shard 1/16 makes one")
    if about is None or about.shard is None or about.status != "finished":
        named = f" --shard {about.shard}" if about else ""
        raise InputError(f"{path}: is not finished; run r2llm rerank{named} {AGAIN} again, and it goes on")
    try:
        return Part(about.shard, path, manifest.intact(path / MANIFEST))
    except InputError as error:
        raise InputError(f"{path / MANIFEST}: {error}; remove {path} and run that shard again") from error
