"""A model as judge: grades for the first documents of runs, how they agree with people's, and whom they favour.

The prompt is UMBRELA's (Upadhyay et al., 2024, arXiv:2406.06519) unless the config names another; the grade is what the
answer states or, with `scoring: likelihood`, the most probable one where the answer would begin. Every document in the
top `depth` of a run, or of the first stage it reranked, is judged. People's grades always come first: the qrels file
has only documents that they did not judge, as `query judge:MODEL document grade`. Judges over-rate
(arXiv:2602.17170), agree less on the best runs (arXiv:2412.17156), favour rankers that are models too
(arXiv:2503.19092), and must not be what they judge (arXiv:2504.19076).

Beside `judged.qrels` stand `judged.jsonl` (an answer a line: `query_id`, `docid`, `grade` or null, `expected` (the
mean grade by likelihood), `human` or null, `model`, `text`), the ledger `judged.sqlite`, and `judged.json`, which
--json prints:

- `judge`, `model` (its identity), `prompt`, `simulated`, `depth`, `measure`, `queries`, `warnings`;
- `documents`: `pool`, `by_people`, `by_model` (lines of the qrels), `unread`, `without_text`;
- `agreement`, or null: `documents`, `kappa`, `kappa_quadratic` and `confusion` (people's grade 0 to 3 x the model's),
  null on another scale, `kappa_binary` at the grade `relevant`, `mean_difference` (model's minus people's);
- `runs`: `name`, `kind` (ranker or first stage), `human`, `filled` (people's grades, else the model's) under the name
  `filled_name`, and `human_same`, `model_same`: by the grades of documents that both judged;
- `rankings`, or null: Kendall's `tau` and `tau_top_half` of the runs by `model_same` against `human_same`;
- `bias`, or null: by how much more the model's judgements lift rankers than first stages: `difference`, `interval`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...rerankers import catalog
from ...rerankers.accounting import Tally
from ...rerankers.api import open_model
from ...rerankers.backends.base import closed_after
from ...rerankers.errors import InputError
from ...rerankers.ranker import Ranker
from ...rerankers.scheduler import Scheduler
from ...rerankers.types import Answer, Candidates, Doc, Params, Query, Ranking, Steps, score
from ..compare import runs as loading
from ..compare import statistics
from ..compare.runs import Run
from ..configs.load import Loaded
from ..datasets.records import JUDGE
from ..first_stage.retrieve import chosen_queries, dataset_with_index
from ..io.files import replacing, save
from ..io.progress import Listener
from ..run import manifest, runfile
from ..run import measures as evaluation
from ..run.measures import Metrics, Qrels
from . import answers, ends

RANKER: Mapping[str, Any] = {
    "method": "pointwise.graded",
    "prompt": "umbrela",
    "scoring": "generation",
    "query_tokens": None,
    "passage_tokens": None,
}
"""The judge's `ranker` section, but for what the config says."""

RELEVANT = 2
"""The lowest relevant grade of DL's scale; 1 where no grade is higher."""

GRADES = range(4)

Judged = Mapping[str, Mapping[str, Answer]]
"""Query to document to the model's answer."""


@dataclass(frozen=True)
class Plan:
    """The runs to judge, the first stages among them, and where the judgements go."""

    runs: Sequence[Path]
    first_stages: Sequence[Path]
    output: Path
    depth: int = 10
    measure: str = "nDCG@10"
    holes: bool = False
    """True: documents that people judged are left out, so that nothing is known of the judge's agreement."""
    circular: bool = False
    """True: a judge whose prompt is a ranker's is accepted."""

    def beside(self, suffix: str) -> Path:
        """Return the output's name with another suffix."""
        return self.output.with_suffix(suffix)


def judge(loaded: Loaded, plan: Plan, listener: Listener) -> dict[str, Any]:
    """Judge, write the files, and return the content of `judged.json`.

    Raises `InputError` for a judge that grades no single document, whose prompt is a ranker's, and for runs of other
    queries; `BackendError` if the model fails: what was answered is in the ledger.
    """
    if plan.output.exists() and not plan.beside(".json").exists():
        raise InputError(f"{plan.output}: is there already and not r2llm judge's; name another file")
    (ranker, grades), name = _ranker(loaded), model_name(loaded.config.model or {})
    runs, kinds = _runs(plan, listener)
    warnings = _circular(ranker, name, [run for run in runs if kinds[run.name] == "ranker"], plan)
    dataset = dataset_with_index(loaded, listener)
    human: Qrels = dataset.qrels() or {}
    queries = chosen_queries(dataset.queries(), loaded.config.queries)
    asked, docs = _asked(queries, human, runs, plan, listener), dataset.docs()
    human = {query: human[query] for query in asked if query in human}
    absent = set(docs.missing(dict.fromkeys(chain.from_iterable(asked.values()))))
    if absent:
        listener.note(f"{len(absent)} documents have no text in {dataset.name} and are not judged")
    pool = {query: [doc for doc in ids if doc not in absent] for query, ids in asked.items()}
    candidates = [
        Candidates(queries[query], tuple(map(Doc, ids, map(docs.texts(ids).__getitem__, ids))), (0.0,) * len(ids))
        for query, ids in pool.items()
        if ids
    ]
    backend = open_model(loaded.config.model or {}, grades=human, seed=loaded.config.seed)
    with answers(plan.beside(".sqlite")) as ledger, closed_after([backend]):
        judged = graded(ranker, backend, ledger, candidates, listener)
        identity = dict(backend.identity)
    made = {
        query: {doc: grades[answer.choice] for doc, answer in row.items() if answer.parsed}
        for query, row in judged.items()
    }
    holes = {q: {d: g for d, g in row.items() if d not in human.get(q, {})} for q, row in made.items()}
    unread = sum(not answer.parsed for row in judged.values() for answer in row.values())
    if unread:
        remedy = "`ranker: {method: pointwise.graded, scoring: likelihood}` takes the most probable grade instead"
        listener.note(f"{unread} answers cannot be read: their documents stay unjudged; {remedy}")
    _write(plan, judged, made, human, holes, name)
    content = {
        "judge": name,
        "model": manifest.portable(identity),
        "prompt": ranker.prompt.name,
        "simulated": backend.simulated,
        "depth": plan.depth,
        "measure": plan.measure,
        "queries": len(asked),
        "warnings": warnings,
        "documents": {
            "pool": sum(map(len, asked.values())),
            "by_people": sum(doc in human.get(q, {}) for q, ids in asked.items() for doc in ids),
            "by_model": sum(map(len, holes.values())),
            "unread": unread,
            "without_text": sum(doc in absent for ids in asked.values() for doc in ids),
        },
        **_compared(runs, kinds, human, made, holes, name, plan),
    }
    save(plan.beside(".json"), manifest.json_text(content))
    return content


def _runs(plan: Plan, listener: Listener) -> tuple[list[Run], dict[str, str]]:
    """Return the runs and the first stages that they reranked, each once, and by name which is which."""
    runs = loading.unmeasured([*plan.runs, *plan.first_stages], listener)
    number = len(runs) - len(loading.unmeasured(plan.first_stages, Listener()))
    rankers = {run.name for run in runs[:number] if run.path.is_file() or run.reranked}
    kinds = {run.name: "ranker" if run.name in rankers else "first stage" for run in runs}
    for run in [run for run in runs if run.config and kinds[run.name] == "ranker"]:
        rankings = runfile.documents(runfile.read(run.path / "first_stage.trec")[0])
        if all(rankings != other.rankings for other in runs):
            runs.append(Run(f"{run.name} first stage", run.path, rankings, {}))
            kinds[runs[-1].name] = "first stage"
    return runs, kinds


def _ranker(loaded: Loaded) -> tuple[Ranker, list[int]]:
    """Return the judge and the grade of each of its labels."""
    if loaded.config.model is None or loaded.config.stages:
        raise InputError(f"config {loaded.config.name}: a judge has a `model` and no `stages`")
    section = {**RANKER, **(loaded.config.ranker or {})}
    fault = f"{section['method']} does not grade single documents"
    if catalog.method(section["method"]).params.asks == ("score",):
        ranker = Ranker.create(section, loaded.config.seed)
        labels = ranker.prompt.labels
        if isinstance(labels, dict) and {*labels.values()} == {*map(float, GRADES)}:
            return ranker, list(map(round, labels.values()))
        fault = f"prompt '{ranker.prompt.name}' gives no grades from 0 to 3"
    remedy = "leave out `ranker` for UMBRELA's prompt"
    raise InputError(f"config {loaded.config.name}: {fault}; {remedy}")


def model_name(model: Mapping[str, Any]) -> str:
    """Return a model's name in one word: the last part of its name or path, or what it is simulated by."""
    name = (
        model.get("name")
        or model.get("gguf")
        or "-".join(str(model[key]) for key in ("backend", "answers") if key in model)
    )
    return re.sub(r"\s+", "-", Path(str(name)).name)


def _circular(ranker: Ranker, name: str, rankers: Sequence[Run], plan: Plan) -> list[str]:
    """Return a warning for each run whose model is the judge's or of its family, and one about unknown models.

    Raises `InputError` if the judge's prompt is one of a run's, unless the plan accepts that.
    """
    warnings, family, own = [], _family(name), _words(turn.content for turn in ranker.prompt.messages)
    unknown = [run.name for run in rankers if not run.config]
    if unknown:
        warnings.append(f"which models made {', '.join(unknown)} is not known: none must be the judge, {name}")
    for run in rankers:
        sections = [stage.get("model") or run.config.get("model") for stage in run.config.get("stages") or [{}]]
        for other in dict.fromkeys(model_name(section) for section in sections if section):
            if _family(other) == family:
                sharing = "is the judge" if other == name else f"is of the judge's family ({name})"
                warnings.append(f"the model of {run.name}, {other}, {sharing}: it favours its own rankings")
        prompts = manifest.read(run.path / manifest.NAME).prompts if run.config else {}
        for prompt, about in prompts.items():
            if _words(turn["content"] for turn in about.model_dump()["messages"]) != own:
                continue
            if not plan.circular:
                problem = f"its ranker asks with the judge's own prompt, {prompt}, and would be judged by itself"
                raise InputError(f"{run.path}: {problem}; set ranker.prompt, or accept it with --allow-circular")
            warnings.append(f"{run.name} ranks with the judge's own prompt, {prompt}: it is judged by itself")
    return warnings


def _family(name: str) -> str:
    """Return the letters that a model's name begins with: qwen of Qwen3-32B, gpt of gpt-4o-mini."""
    return re.match(r"[^\W\d_]*", name.lower())[0]  # type: ignore[index]


def _words(texts: Iterable[str]) -> list[str]:
    return " ".join(texts).split()


def _asked(
    queries: Mapping[str, Query], human: Qrels, runs: Sequence[Run], plan: Plan, listener: Listener
) -> dict[str, list[str]]:
    """Return the documents to judge of each query: the top of any run, of queries that people judged, if any."""
    ranked = dict.fromkeys(query for run in runs for query in run.rankings)
    chosen = [query for query in ranked if query in queries and (query in human or not human)]
    if not chosen:
        raise InputError(f"none of the runs' {len(ranked)} queries is one of the config's dataset, with judgements")
    if left_out := len(ranked) - len(chosen):
        listener.note(f"{left_out} of {len(ranked)} queries are left out: not chosen, or without text or judgements")
    tops = {q: dict.fromkeys(d for run in runs for d in run.rankings.get(q, ())[: plan.depth]) for q in chosen}
    return {q: [d for d in docs if not (plan.holes and d in human.get(q, {}))] for q, docs in tops.items()}


def graded(ranker: Ranker, backend: Any, ledger: Any, queries: Sequence[Candidates], listener: Listener) -> Judged:
    """Return the model's answer about each document of each query; those in the ledger are not asked for again."""
    judged: dict[str, dict[str, Answer]] = {}

    def ask(candidates: Candidates, params: Params) -> Steps:  # noqa: ARG001 - the signature of every method
        given = yield [score(doc) for doc in candidates.ids]
        judged[candidates.query.id] = dict(zip(candidates.ids, given, strict=True))
        return Ranking(candidates.ids)

    asking = replace(ranker, method=replace(ranker.method, run=ask))
    with listener.task("judging, documents", sum(len(one.docs) for one in queries)) as advance:
        for _ in Scheduler(asking, backend, ledger, tally=Tally(listener=advance)).rank(queries):
            pass
    return {query.query.id: judged[query.query.id] for query in queries}


def _write(plan: Plan, judged: Judged, made: Qrels, human: Qrels, holes: Qrels, name: str) -> None:
    with replacing(plan.output) as stream:
        for query, grades in holes.items():
            stream.writelines(f"{query} {JUDGE}{name} {doc} {grade}\n" for doc, grade in grades.items())
    with replacing(plan.beside(".jsonl")) as stream:
        for query, row in judged.items():
            for doc, answer in row.items():
                line: dict[str, Any] = {"query_id": query, "docid": doc, "grade": made[query].get(doc)}
                line |= {
                    "expected": answer.scores[0] if answer.parsed else None,
                    "human": human.get(query, {}).get(doc),
                }
                line |= {"model": name, "text": answer.text}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def agreement(human: Qrels, made: Qrels) -> dict[str, Any] | None:
    """Return how far a model's grades agree with people's, or None if they share no document."""
    from sklearn.metrics import cohen_kappa_score, confusion_matrix

    pairs = [(grade, made[q][d]) for q in made for d, grade in human.get(q, {}).items() if d in made[q]]
    if not pairs:
        return None
    highest = max(grade for grades in human.values() for grade in grades.values())
    relevant, graded = min(RELEVANT, max(1, highest)), 1 < highest <= max(GRADES)
    people, model = np.array(pairs).clip(min=0).T

    def kappa(a: Any, b: Any, weights: str | None = None) -> float | None:
        return float(cohen_kappa_score(a, b, weights=weights)) if len({*a, *b}) > 1 else None

    return {
        "documents": len(pairs),
        "relevant": relevant,
        "kappa": kappa(people, model) if graded else None,
        "kappa_quadratic": kappa(people, model, "quadratic") if graded else None,
        "kappa_binary": kappa(people >= relevant, model >= RELEVANT),
        "mean_difference": float((model - people).mean()),
        "confusion": confusion_matrix(people, model, labels=list(GRADES)).tolist() if graded else None,
    }


def _compared(
    runs: Sequence[Run], kinds: Mapping[str, str], human: Qrels, made: Qrels, holes: Qrels, name: str, plan: Plan
) -> dict[str, Any]:
    """Return agreement, the runs' measures by each set of judgements, their rankings, and the judge's bias."""
    filled = {query: {**made.get(query, {}), **human.get(query, {})} for query in {**human, **made}}
    both = {q: {d: g for d, g in row.items() if d in human.get(q, {})} for q, row in made.items()}
    same = {q: {d: human[q][d] for d in row} for q, row in both.items() if row}
    models = {(query, doc): name for query, row in holes.items() for doc in row}
    queries = [query for query in filled if any(query in run.rankings for run in runs)]

    def measured(qrels: Qrels, run: Run) -> Metrics | None:
        of = [query for query in queries if qrels.get(query)]
        return evaluation.measure([plan.measure], qrels, run.rankings, of) if of else None

    rows, lifts = [], dict[str, list[Any]]()
    measure = str(evaluation.parse([plan.measure])[0])
    for run in runs:
        people, all_of, *alike = (measured(qrels, run) for qrels in (human, filled, same, both))
        shown_of = evaluation.marked(all_of, run.rankings, models) if all_of and models else all_of
        [shown] = shown_of.mean.items() if shown_of else [(None, None)]
        lift = [[m.per_query[q][measure] for q in m.per_query] if m else [] for m in alike]
        lifts.setdefault(kinds[run.name], []).append(np.subtract(lift[1], lift[0]))
        row = {"name": run.name, "kind": kinds[run.name], "human": people and people.mean[measure]}
        row |= {"filled": shown[1], "filled_name": shown[0]}
        rows.append(
            row | {f"{who}_same": m and m.mean[measure] for who, m in zip(("human", "model"), alike, strict=True)}
        )
    agreed = agreement(human, made)
    return {
        "agreement": agreed,
        "runs": rows,
        "rankings": _rankings(rows) if agreed and len(rows) > 1 else None,
        "bias": _bias(lifts) if agreed and len(lifts) > 1 else None,
    }


def _rankings(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return how alike the model's and people's judgements order the runs: τ-b, None where one side has one value."""
    from scipy.stats import kendalltau

    best = sorted(rows, key=lambda row: -row["human_same"])

    def tau(part: Sequence[Mapping[str, Any]]) -> float | None:
        people, model = ([row[by] for row in part] for by in ("human_same", "model_same"))
        several = len({*people}) > 1 and len({*model}) > 1
        return float(kendalltau(people, model).statistic) if several else None

    return {"tau": tau(rows), "tau_top_half": tau(best[: math.ceil(len(best) / 2)])}


def _bias(lifts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean over queries of (model's - people's) measure for rankers, less the same for first stages."""
    first_stages, rankers = (np.mean(lifts[kind], axis=0) for kind in ("first stage", "ranker"))
    interval = statistics.interval(first_stages, rankers)
    difference = float((rankers - first_stages).mean())
    return {"difference": difference, "interval": ends(interval), "queries": len(rankers)}
