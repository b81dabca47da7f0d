"""What the documentation says is what the code does: parameters, pictures, fixed costs, YAML, links."""

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from r2llm.pipeline.configs import listing
from r2llm.pipeline.configs.schema import Fuse, Stage
from r2llm.rerankers import catalog
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.passages import Passages
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker, RankerOptions
from r2llm.rerankers.scheduler import comparisons
from r2llm.rerankers.types import Answer, Ask, Candidates, Doc, Query, Ranking, Steps

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
SECTIONS = dict(re.findall(r"^### (\w+\.\w+)\n(.*?)(?=^###? )", PAGE, re.DOTALL | re.MULTILINE))
NAMED = re.compile(r"`(\w+): ([^`]+)`")
"""A key and its value in prose."""

ORDER = "fcadhbeg"
"""The documents of the pictures, best first."""


def answer(ask: Ask, best_first: list[str]) -> Answer:
    """What a judge who is always right answers, to whom the documents have this order."""
    relevance = [len(best_first) - best_first.index(doc) for doc in ask.docs]
    order = tuple(sorted(range(len(relevance)), key=lambda i: -relevance[i]))
    return Answer(
        choice=order[0] if order else 0,
        order=order[: ask.limit or None],
        scores=tuple(map(float, relevance)),
        peak=float(relevance[0]) if relevance else 0.0,
    )


def at_work(steps: Steps, best_first: list[str]) -> tuple[list[list[Ask]], Ranking]:
    """The rounds of a method, without what is computed, and its ranking."""
    rounds: list[list[Ask]] = []
    try:
        asks = next(steps)
        while True:
            rounds += [asked] if (asked := [ask for ask in asks if ask.kind != "derive"]) else []
            asks = steps.send([answer(ask, best_first) for ask in asks])
    except StopIteration as stop:
        return rounds, stop.value


def candidates(names: list[str]) -> Candidates:
    docs = tuple(Doc(name, f"Passage {name} has a sentence.") for name in names)
    return Candidates(Query("q", "query"), docs, tuple(float(len(names) - i) for i in range(len(names))))


def drawn(asks: list[Ask]) -> Iterator[str]:
    """A round as the pictures have it."""
    for number, ask in enumerate(asks):
        told, docs = answer(ask, list(ORDER)), "".join(ask.docs)
        pair = ask.kind == "compare"
        if pair and number and asks[number - 1].docs == ask.docs[::-1] and number % 2:
            continue
        if pair and number + 1 < len(asks) and asks[number + 1].docs == ask.docs[::-1]:
            docs = "·".join(ask.docs)
        if ask.kind in ("compare", "choose"):
            yield f"{docs} → {ask.docs[told.choice]}"
        elif ask.kind in ("permute", "select"):
            yield f"{docs} → {''.join(ask.docs[i] for i in told.order)}"
        else:
            yield f"note({docs})" if ask.kind == "write" else docs


def picture(method: str) -> tuple[dict[str, object], list[list[str]], list[str]]:
    """A section's picture: the parameters, the rounds, and the ranking where it ends with one."""
    found = re.search(r"^```text\n(.*?)\n```$", SECTIONS[method], re.DOTALL | re.MULTILINE)
    assert found, f"{method} has no picture"
    head, *lines = found[1].splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 80
    rounds, ranking, number = [], [], 0
    for line in lines:
        numbered = re.match(r"(\d+)(?:\u2013(\d+))?[ └─┘]+(.*)", line)
        if numbered:
            told = [each.strip().split(", ") for each in re.split(r" {3,}", numbered[3])[0].split(" | ")]
            assert int(numbered[1]) == number + 1
            number += len(told)
            assert int(numbered[2] or numbered[1]) == number
            rounds += told
        elif line.startswith("="):
            ranking = re.findall(r"\b[a-h]\b", re.split(r" {4,}", line[1:].strip())[0])
    return ({} if head == "defaults" else yaml.safe_load(f"{{{head}}}")), rounds, ranking


def test_the_generated_parts_are_up_to_date(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["update_docs.py", "--check"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "scripts" / "update_docs.py"), run_name="__main__")
    assert (stop.value.code, capsys.readouterr().err) == (0, "")


def test_every_method_has_a_section_and_a_line_in_the_table() -> None:
    assert sorted(SECTIONS) == catalog.names("method")
    assert sorted(re.findall(r"^\| \[`([\w.]+)`\]\(#\w+\) \|", PAGE, re.MULTILINE)) == catalog.names("method")
    for name, text in SECTIONS.items():
        assert f"<!-- parameters: {name} -->" in text
        assert re.search(r"^Cost: ", text, re.MULTILINE)
        assert re.search(r"^Source: ", text, re.MULTILINE)


@pytest.mark.parametrize("method", catalog.names("method"))
def test_a_picture_is_what_the_method_does(method) -> None:
    params, rounds, ranking = picture(method)
    ranker = Ranker.create({"method": method} | params)
    done, found = at_work(ranker.steps(candidates(list("abcdefgh"))), list(ORDER))
    assert len(rounds) == len(done)
    for told, asks in zip(rounds, done, strict=True):
        happened = list(drawn(asks))
        if "…" in told:
            told = [item for item in told if item != "…"]
            happened = [item for item in happened if item in told]
        assert told == happened
    assert ranking in ([], list(found.docs))


@pytest.mark.parametrize("line", re.findall(r"^\| \[`.*$", PAGE, re.MULTILINE), ids=lambda line: line.split("`")[1])
def test_costs_that_do_not_depend_on_the_answers_are_those_of_the_table(line) -> None:
    method, _, *told = (cell.strip() for cell in line.strip("|").split("|"))
    takes_k = "k" in catalog.method(method.split("`")[1]).params.model_fields
    ranker = Ranker.create({"method": method.split("`")[1]} | ({"k": 10} if takes_k else {}))
    names = [f"d{i}" for i in range(100)]
    done, _ = at_work(ranker.steps(candidates(names)), names[::-1])
    asks = str(sum(map(len, done)))
    counts = [asks, asks, str(len(done)), str(sum(map(comparisons, done)))]
    for count, cell in zip(counts, told, strict=True):
        assert cell.startswith("~") or cell.replace(",", "") == count


def test_keys_that_are_named_exist_and_take_the_values_named() -> None:
    shared = {*RankerOptions.model_fields, *Passages.model_fields, *Fuse.model_fields, "schedule"}
    everywhere = shared | {key for name in catalog.names("method") for key in catalog.method(name).params.model_fields}
    assert {key for key, _ in NAMED.findall(PAGE)} <= everywhere
    for method, text in SECTIONS.items():
        for key, value in NAMED.findall(text.partition("<!--")[0]):
            wrong = mistakes({"method": method, key: yaml.safe_load(value)})
            assert not wrong & {"extra_forbidden", "literal_error"}, f"{method}: {key}: {value}"


def mistakes(options: dict[str, object]) -> set[str]:
    """What is wrong with a `ranker` section, in pydantic's words; nothing where it is no single key."""
    try:
        Ranker.create(options)
    except ValidationError as error:
        return {each["type"] for each in error.errors()}
    except InputError:
        return set()
    return set()


def test_prompts_that_are_named_exist() -> None:
    named = re.findall(r"`((?:graded|study|setwise)_\w+|first_original)`|`prompt: (\w+)`", PAGE)
    assert {one or other for one, other in named} <= set(catalog.names("prompt"))


def test_methods_that_are_named_exist() -> None:
    families = {name.partition(".")[0] for name in catalog.names("method")}
    named = {name for name in re.findall(r"`(\w+\.\w+)`", PAGE) if name.partition(".")[0] in families}
    assert named <= set(catalog.names("method"))


def test_the_methods_that_rank_by_passages_are_those_named() -> None:
    able = {method for method in catalog.names("method") if ranks_by_passages(method)}
    others = {"tournament.tourrank", "pairwise.probability", "groupwise.shuffled"}
    assert able == {name for name in catalog.names("method") if name.startswith("pointwise.")} | others


def ranks_by_passages(method: str) -> bool:
    try:
        Ranker.create({"method": method, "passages": {}})
    except InputError:
        return False
    return True


def test_the_prompt_study_has_the_prompts_that_are_counted() -> None:
    counts = dict(re.findall(r"`(study_\w+)`\s\((\d+)\)", PAGE))
    assert sum(map(int, counts.values())) == 1248
    for name, count in counts.items():
        assert len(list(prompts.variations(name))) == int(count)


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
def test_yaml_on_the_page_is_accepted(text) -> None:
    for key, value in yaml.safe_load(text).items():
        if key == "ranker":
            Ranker.create(value)
        elif key == "stages":
            for stage in value:
                Ranker.create(Stage.model_validate(stage).ranker)
        else:
            assert key == "fuse"
            Fuse.model_validate(value)


def test_the_example_of_a_method_ranks() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    example = {"__name__": "r2llm.rerankers.methods.setwise.champion", "__package__": "r2llm.rerankers.methods.setwise"}
    exec(code, example)
    rounds, ranking = at_work(example["champion"](candidates(list("abcdef")), example["Params"](m=4)), list("dbacef"))
    assert [ask.docs for [ask] in rounds] == [("a", "b", "c", "d")]
    assert ranking.docs == tuple("dabcef")


def test_keys_beside_options_of_other_toolkits_exist() -> None:
    page = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    keys = re.findall(r"^\| `[^|]*\| `([\w.*]+)` \|", page, re.MULTILINE)
    assert len(keys) > 40
    assert set(keys) <= {row[0] for row in listing.rows("keys")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page) -> None:
    text = page.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in anchors
        elif not link.startswith("http"):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page) -> None:
    text = page.read_text(encoding="utf-8").replace("`rerankers/methods/setwise/champion.py`", "")  # the example's
    paths = set(re.findall(r"`((?:cli|pipeline|rerankers|scripts|tests)/[\w./]+)", text))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    if page.name == "architecture.md":
        names = re.findall(r"[\w/]+\.py", text)
        files = [path.as_posix() for room in ("cli", "pipeline", "rerankers") for path in (ROOT / room).rglob("*.py")]
        assert [n for n in names if n not in paths and not any(file.endswith(f"/{n}") for file in files)] == []


@pytest.mark.slow
def test_the_notebook_gives_what_it_shows(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    shown = shown_in(notebook)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert shown_in(notebook) == shown
    assert (tmp_path / "report.html").is_file()


def shown_in(notebook) -> list[str]:
    """The results of a notebook's cells, as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["data"]["text/plain"] for output in outputs if output["output_type"] == "execute_result"]
