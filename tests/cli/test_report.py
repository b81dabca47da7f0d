"""`r2llm report`: one page of its own, the same bytes each time, in which everything from outside is text."""

from __future__ import annotations

import functools
import html
import http.server
import json
import re
import shlex
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

HOSTILE = "<script>document.title='run'</script>"
DOCS = [f"The moon {HOSTILE} pulls the sea.", "Sea water is salt.", "Why is the sea salt? </script><b>Rivers</b>"]


@pytest.fixture
def page(r2llm, toy: Path, tmp_path: Path) -> Path:
    """The report of two runs with hostile texts, and its figures and tables."""
    lines = [json.dumps({"_id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(DOCS, 1)]
    Path("docs.jsonl").write_text("".join(lines))
    Path("queries.tsv").write_text(f"q1\twhy {HOSTILE} is the sea salt\nq2\tmoon\n")
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "one").code == 0
    other = "extends: toy.yaml\nranker: {method: pairwise.allpair}\n"
    Path("two.yaml").write_text(f"{other}expected: {{nDCG@10: {{value: 1, tolerance: 0, source: here}}}}\n")
    assert r2llm("rerank", "--config", "two.yaml", "--output", "two").code == 0
    done = r2llm("report", "one", "two", "--figures", "figures", "--latex", "latex")
    assert (done.code, done.out.count("\n")) == (0, 3), done.err
    return tmp_path / "report.html"


def test_a_report_is_one_page_of_its_own(page: Path) -> None:
    text, _, script = page.read_text().partition('<script type="application/json"')
    assert HOSTILE not in text + script
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    titles = ["Runs", "Results", "Effectiveness against cost", "Query by query", "Published beside measured"]
    titles += ["Properties of the methods", "A query's story: q1"]
    assert re.findall(r"<h2>(.*?)</h2>", text) == [title.replace("'", "&#39;") for title in titles]
    assert "simulated: not judged" in text
    assert re.search(r"has it, without costs, once \S+first_stage.trec and --dataset or --qrels are added", text)
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', script)[1])
    assert all(spec["title"]["subtitle"].startswith("simulated") for spec in specs)
    assert text.count("<svg") == len(specs) == len(list(Path("figures").glob("*.svg")))


@pytest.mark.slow
def test_a_report_of_the_same_runs_has_the_same_bytes(r2llm, page: Path) -> None:
    first = page.read_bytes()
    assert r2llm("report", "one", "two", "--figures", "figures", "--latex", "latex").code == 0
    assert page.read_bytes() == first


@pytest.mark.slow
def test_figures_and_tables_say_that_answers_were_simulated(page: Path) -> None:
    figures, tables = list(Path("figures").glob("*.svg")), list(Path("latex").glob("*.tex"))
    assert all("var(--" not in figure.read_text() and "simulated answers" in figure.read_text() for figure in figures)
    assert {table.stem for table in tables} >= {"results", "published", "properties"}
    assert all("simulated" in table.read_text().lower() for table in tables)
    assert Path("figures/means-ndcg-10.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_runs_of_other_queries_are_reported_apart(r2llm, toy: Path) -> None:
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "both").code == 0
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "one", "--queries", "1").code == 0
    assert r2llm("report", "both", "one").code == 0
    titles = ["docs.jsonl (1)", "docs.jsonl (2)"]
    assert re.findall(r"<h2>(.*?)</h2>", Path("report.html").read_text().partition("<script ")[0]) == titles
    done = r2llm("report", "both", "one", "--common")
    assert (done.code, "note: 1 queries that not all runs have are left out" in done.err) == (0, True), done.err


@pytest.mark.slow
def test_a_first_stage_is_a_run_without_cost(r2llm, toy: Path) -> None:
    assert r2llm("retrieve", "--config", "toy.yaml", "--output", "first").code == 0
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "run").code == 0
    done = r2llm("report", "run", "first")
    assert (done.code, "left out" in done.err) == (0, False), done.err


@pytest.mark.slow
def test_the_command_above_a_part_prints_its_figures(r2llm, toy: Path) -> None:
    assert r2llm("retrieve", "--config", "toy.yaml", "--output", "first").code == 0
    shutil.copy("first/first_stage.trec", "my run.trec")
    given = ("--qrels", "qrels.txt", "--baseline", "bm25", "--measure", "P@2", "--common")
    assert r2llm("report", "bm25.trec", "my run.trec", *given).code == 0
    text = html.unescape(Path("report.html").read_text())
    commands = [shlex.split(line) for line in re.findall(r"r2llm compare [^<]*", text)]
    assert len(commands) == 2
    for _, *arguments in commands:  # without the program's name
        done = r2llm(*arguments, "--json")
        assert done.code == 0, done.err
        assert '"P@2"' in done.out


@pytest.mark.slow
def test_studies_are_reported_from_their_files(r2llm, toy: Path) -> None:
    Path("judge.yaml").write_text("extends: toy.yaml\nranker: {method: pointwise.graded}\n")
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "run").code == 0
    assert r2llm("judge", "run", "--config", "judge.yaml", "-o", "judged.qrels").code == 0
    assert r2llm("probe", "--config", "toy.yaml", "--sets", "2", "--output", "probes").code == 0
    done = r2llm("report", "run", "judged.json", "probes/probe.json", "--latex", "latex")
    assert done.code == 0, done.err
    titles = re.findall(r"<h2>(.*?)</h2>", Path("report.html").read_text().partition("<script ")[0])
    assert titles == ["docs.jsonl", "A model as judge", "Probes"]
    assert {"2-judge-runs.tex", "3-probes.tex"} <= {path.name for path in Path("latex").iterdir()}


def test_what_cannot_be_reported_is_refused(r2llm, toy: Path) -> None:
    assert r2llm("retrieve", "--config", "toy.yaml", "--output", "first").code == 0
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "run").code == 0
    for arguments, complaint in (
        (("report", "nothing"), "no file or folder nothing"),
        (("report", "first"), "a report needs two runs"),
        (("report", "first/manifest.json"), "it is no file of judge, probe or abstain"),
        (("report", "bm25.trec", "-o", "a.html"), "a TREC file has no judgements"),
        (("report", "bm25.trec", "--qrels", "qrels.txt", "-o", "."), "is a folder; name a file"),
        (("report", "run", "--query", "q9"), "--query q9: no reranked run has this query"),
    ):
        done = r2llm(*arguments)
        assert (done.code, complaint in done.err) == (2, True), done.err


@pytest.mark.slow
def test_a_page_says_what_runs_leave_out_and_draws_one_query_at_its_value(r2llm, tmp_path: Path) -> None:
    Path("qrels.txt").write_text("q1 0 a 1\n")
    long = f"{'long ' * 20}name"
    for name, docs in (("one", "bca"), (long, "abc")):
        rows = [f"{query} Q0 {doc} 1 {9 - i} x\n" for query in ("q1", "q2") for i, doc in enumerate(docs)]
        Path(f"{name}.trec").write_text("".join(rows))
    assert r2llm("report", f"{long}.trec", "one.trec", "--qrels", "qrels.txt", "--figures", ".").code == 0
    text = html.unescape(Path("report.html").read_text())
    assert f"Note: {long}.trec: 1 of 2 queries have no judgements and are left out; likewise, 1 more: one.trec." in text
    drawn = Path("differences-ndcg-10.svg").read_text()
    assert ">-0.5<" in drawn.replace("\u2212", "-")  # the one label of the axis
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', Path("report.html").read_text())[1])
    assert max(len(line) for spec in specs for line in spec["title"]["text"]) <= 46


class _Counting(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_: object) -> None:
        self.asked.append(self.path)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
@pytest.mark.parametrize("width", [400, 1600])
def test_a_browser_asks_for_the_page_alone_and_runs_no_text_of_it(page: Path, width: int) -> None:
    asked: list[str] = []
    handler = functools.partial(type("Handler", (_Counting,), {"asked": asked}), directory=page.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=9000",
    ]
    address = f"http://127.0.0.1:{server.server_port}/report.html"
    browser = ["chromium", *options, f"--window-size={width},900", "--dump-dom", address]
    done = subprocess.run(browser, capture_output=True, text=True, timeout=120)
    server.shutdown()
    server.server_close()
    assert asked == ["/report.html"]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert re.search("<title>(.*?)</title>", done.stdout)[1].startswith("r2llm report: ")
    charts = len(json.loads(re.search(r'id="specs">(.*?)</script>', done.stdout)[1]))
    assert done.stdout.count('class="vega-embed') == charts  # each still picture gave way to a live one
    assert done.stdout.count('<button type="button">') > 10  # by which tables are sorted
