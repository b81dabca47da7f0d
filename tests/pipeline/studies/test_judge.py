"""A model as judge: planted agreement, what is written, what is refused, and what a killed judge keeps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline import datasets, experiment
from r2llm.pipeline.compare import evaluate
from r2llm.pipeline.compare.runs import Judgements, load
from r2llm.pipeline.configs import load as configs
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.studies import judge
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.errors import BackendError, InputError

JUDGE = """\
dataset: {docs: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}
model: {backend: simulated, answers: oracle}
"""


@pytest.fixture
def run(toy: Path) -> Path:
    """A finished run of the toy experiment, and `judge.yaml` beside it."""
    (toy / "judge.yaml").write_text(JUDGE, encoding="utf-8")
    return experiment.rerank(configs.load("toy.yaml"), Path("run"), Listener()).run_dir


def judged(runs: list[Path], *settings: str, config: str = "judge.yaml", **options: object) -> dict:
    plan = judge.Plan(runs, (), Path("out/judged.qrels"), **options)
    return judge.judge(configs.load(config, settings), plan, Listener())


def test_a_judge_that_knows_peoples_grades_agrees_with_them(run) -> None:
    found = judged([run])
    assert [found["agreement"][name] for name in ("kappa", "kappa_quadratic", "kappa_binary", "mean_difference")] == [
        pytest.approx(value) for value in (1, 1, 1, 0)
    ]
    assert sum(map(sum, found["agreement"]["confusion"])) == found["documents"]["by_people"]
    assert [row["kind"] for row in found["runs"]] == ["ranker", "first stage"]
    first = experiment.retrieve_only(configs.load("toy.yaml"), Path("first"), Listener()).run_dir
    assert [row["kind"] for row in judged([run, first])["runs"]] == ["ranker", "first stage"]
    found = judged([run])
    for row in found["runs"]:
        assert row["human_same"] == row["model_same"]
    assert found["bias"]["difference"] == 0
    assert found["simulated"]
    assert json.loads(Path("out/judged.json").read_text()) == found


def test_by_likelihood_the_most_probable_label_is_the_grade(run) -> None:
    """The oracle gives the top label .38 for a document graded 0, and more than half for others: grades 0 and 3."""
    found = judged([run], "ranker={method: pointwise.graded, scoring: likelihood}")
    people = [sum(row) for row in judged([run])["agreement"]["confusion"]]
    assert found["agreement"]["confusion"] == [[people[0], 0, 0, 0], *([0, 0, 0, count] for count in people[1:])]


def test_qrels_hold_only_what_people_did_not_judge_and_are_never_taken_for_theirs(run) -> None:
    found = judged([run], "model.answers=noisy", "model.noise=1.0")
    lines = Path("out/judged.qrels").read_text().splitlines()
    assert len(lines) == found["documents"]["by_model"] > 0
    assert all(line.split()[1] == "judge:simulated-noisy" for line in lines)
    human = datasets.read_qrels(Path("qrels.txt"))
    assert all(line.split()[2] not in human.get(line.split()[0], {}) for line in lines)
    rows = [json.loads(line) for line in Path("out/judged.jsonl").read_text().splitlines()]
    assert len(rows) == found["documents"]["pool"]
    assert all((row["human"] is None) == (row["docid"] not in human.get(row["query_id"], {})) for row in rows)
    Path("both.qrels").write_text(Path("qrels.txt").read_text() + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"both.qrels:\d+: a judgement that the model simulated-noisy made"):
        load([run], Judgements(Path("both.qrels")), (), Listener())
    with pytest.raises(InputError, match="simulated-noisy made"):
        experiment.rerank(configs.load("toy.yaml", ["dataset.qrels=both.qrels"]), None, Listener())
    marked = evaluate.metrics_of(evaluate.Source(qrels=Path("both.qrels")), run / "run.trec", (), Listener())
    assert all(name.endswith("judged by simulated-noisy)") for name in marked.mean)


def test_without_a_models_grade_the_measure_is_peoples_of_the_queries_chosen(run) -> None:
    Path("qrels.txt").write_text("".join(f"q1 0 d{d} {d % 4}\n" for d in range(1, 6)) + "q2 0 d4 1\n")
    found = judged([run], "queries.limit=1")
    assert (found["queries"], found["documents"]["by_model"]) == (1, 0)
    assert all(row["filled"] == row["human"] and row["filled_name"] == "nDCG@10" for row in found["runs"])


def test_peoples_grades_come_before_a_models(write) -> None:
    models: dict[tuple[str, str], str] = {}
    path = write("mixed.qrels", "q judge:m a 3\nq 0 a 0\nq judge:m b 2\n")
    assert datasets.read_qrels(path, models) == {"q": {"a": 0, "b": 2}}
    assert models == {("q", "b"): "m"}


def test_the_judges_own_prompt_is_refused_and_its_own_model_is_warned_of(run) -> None:
    settings = ["ranker={method: pointwise.graded, prompt: umbrela, scoring: generation}"]
    own = experiment.rerank(configs.load("toy.yaml", settings), Path("own"), Listener()).run_dir
    with pytest.raises(InputError, match="the judge's own prompt, umbrela"):
        judged([run, own])
    found = judged([run, own], circular=True)
    assert sum("umbrela: it is judged by itself" in warning for warning in found["warnings"]) == 1
    assert sum("it favours its own rankings" in warning for warning in found["warnings"]) == 2


def test_models_of_a_family_are_known_by_the_beginning_of_their_names() -> None:
    assert judge._family("Qwen3-32B") == judge._family("Qwen2.5-7B-Instruct") == "qwen"
    assert judge._family("gpt-4o-mini") == "gpt"
    assert judge.model_name({"backend": "transformers", "gguf": "a/SmolLM2.gguf"}) == "SmolLM2.gguf"
    assert judge.model_name({"backend": "transformers", "name": "google/flan-t5-large"}) == "flan-t5-large"


def test_a_killed_judge_goes_on_where_it_stopped(run, monkeypatch: pytest.MonkeyPatch) -> None:
    collect, asked = simulated.Simulated.collect, []

    def fails(backend):
        if asked:
            raise BackendError("the server is gone")
        return answers(backend, 3)

    def answers(backend, count=None):
        backend.waiting, rest = backend.waiting[:count], backend.waiting[count:] if count else []
        replies = collect(backend)
        backend.waiting = rest
        asked.extend(replies)
        return replies

    monkeypatch.setattr(simulated.Simulated, "collect", fails)
    with pytest.raises(BackendError):
        judged([run])
    monkeypatch.setattr(simulated.Simulated, "collect", answers)
    found = judged([run])
    assert len(asked) == found["documents"]["pool"]
    assert judged([run]) == found
    assert len(asked) == found["documents"]["pool"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (["ranker={method: setwise.heapsort}"], "setwise.heapsort does not grade single documents"),
        (["ranker={method: pointwise.yes_no, prompt: yes_no}"], "prompt 'yes_no' gives no grades"),
    ],
)
def test_what_is_no_judge_is_refused(run, settings: list[str], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        judged([run], *settings)


def test_a_judge_to_whom_all_runs_are_equal_does_not_order_them() -> None:
    rows = [{"human_same": value, "model_same": 1.0} for value in (0.3, 0.5, 0.4)]
    assert judge._rankings(rows) == {"tau": None, "tau_top_half": None}
    rows = [{"human_same": value, "model_same": value + 0.1} for value in (0.3, 0.5, 0.4)]
    assert judge._rankings(rows) == {"tau": 1.0, "tau_top_half": 1.0}


def test_a_file_that_is_not_the_judges_is_not_written_over(run, write: Callable[[str, str], Path]) -> None:
    write("out/judged.qrels", "q1 0 d1 1\n")
    with pytest.raises(InputError, match="is there already"):
        judged([run])


def test_agreement_by_hand() -> None:
    """Four documents, of which one is a grade too high: κ is (0.75 - 0.25) / (1 - 0.25)."""
    human, made = {"q": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 1}}, {"q": {"a": 0, "b": 2, "c": 2, "d": 3, "x": 3}}
    found = judge.agreement(human, made)
    assert found["documents"] == 4
    assert found["kappa"] == pytest.approx((0.75 - 0.25) / (1 - 0.25))
    assert found["kappa_binary"] == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert found["mean_difference"] == 0.25
    assert found["confusion"] == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    binary = judge.agreement({"q": {"a": 1, "b": 0}}, {"q": {"a": 3, "b": 1}})
    assert (binary["relevant"], binary["kappa"], binary["kappa_binary"]) == (1, None, 1.0)
