"""Asks put to a server: what is sent is what `transformers` reads, and what is read is what the server answered."""

import asyncio
import json
import math
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import openai, replay
from r2llm.rerankers.backends import transformers as transformers_backend
from r2llm.rerankers.backends._server.chat import Chat
from r2llm.rerankers.backends._server.completions import Completions
from r2llm.rerankers.backends._server.forms import bounded, by_text, disarmed, log_probability, shifted
from r2llm.rerankers.backends._server.limits import Limits
from r2llm.rerankers.backends._server.refusals import AttemptError, MalformedError
from r2llm.rerankers.backends._server.rerank import Rerank, _scores
from r2llm.rerankers.backends._server.spec import ServerSpec
from r2llm.rerankers.backends._tokens.tokens import Tokens
from r2llm.rerankers.backends.base import Backend, Request, Setting
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Ask, choose, score


def spec(**more: Any) -> ServerSpec:
    return ServerSpec(openai.Options(**({"name": "stub", "prompts_per_request": 4} | more)))


def options(url: str | list[str], **more: Any) -> openai.Options:
    return openai.Options(**({"name": "stub", "base_url": url, "retries": 2} | more))


class StubInProcess:
    """A server without HTTP: the stub's answers, and what it was sent."""

    def __init__(self, stub_module: ModuleType, without: set[str]) -> None:
        self.stub = stub_module.Stub("stub", without)
        self.bodies: list[Mapping[str, Any]] = []

    async def send(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Any], *_: Any) -> Any:
        self.bodies.append(body)
        status, reply = self.stub.answer("/v1" + path, body)
        if status != 200:
            raise AttemptError("wrong", reply["error"]["message"], status, reply["error"]["param"])
        return read(reply)


@pytest.fixture(scope="module")
def tokens(tiny_llama: Path) -> Tokens:
    import transformers

    return Tokens(transformers.AutoTokenizer.from_pretrained(tiny_llama), "decoder_only")


@pytest.fixture
def ask_of(make_candidates: Callable[..., Any]) -> Callable[..., list[Request]]:
    """The requests for some asks, by a ranker's options."""

    def make(ranker: dict[str, Any], asks: list[Ask], **texts: Any) -> list[Request]:
        backend = openai.open(openai.Options(name="stub"), Setting())
        requests = Requests(Ranker.create(ranker), backend, make_candidates(**texts))
        return [requests.request(ask) for ask in asks]

    return make


def answers(form: Any, requests: list[Request]) -> list[Reply]:
    """The replies to requests, in order."""

    async def run() -> list[Reply]:
        replies = []
        for group in form.groups(requests):
            replies += await form.answer(group)
        return replies

    return asyncio.run(run())


# /completions


def test_labels_are_scored_by_id_after_the_token_ids_that_transformers_reads(
    stub_module: ModuleType, tokens: Tokens, ask_of: Callable[..., list[Request]]
) -> None:
    requests = ask_of({"method": "setwise.heapsort"}, [choose(["d00", "d01", "d02"]), choose(["d03", "d01"])])
    server = StubInProcess(stub_module, set())
    form = Completions(server, spec(), tokens)
    replies = answers(form, requests)
    prompts = [tokens.prompt(request) for request in requests]
    assert server.bodies[-1]["prompt"] == [ids for _, ids in prompts]
    for request, (text, ids), reply in zip(requests, prompts, replies, strict=True):
        labels = [first for (first,) in tokens.label_ids(request, text)]
        assert reply.scores == tuple(stub_module.logprob(ids, label) for label in labels)
        assert (reply.prompt_tokens, reply.completion_tokens) == (len(ids), 0)
    assert form.capabilities["label_scores"] == "logprob_token_ids"


@pytest.mark.parametrize("lacking", ["echo", "prompt_logprobs", "several_prompts,echo"])
def test_a_label_that_is_not_listed_is_scored_as_a_continuation(
    stub_module: ModuleType, tokens: Tokens, ask_of: Callable[..., list[Request]], lacking: str
) -> None:
    requests = ask_of({"method": "pointwise.yes_no"}, [score("d00"), score("d01"), score("d02")])
    server = StubInProcess(stub_module, {"logprob_token_ids", *lacking.split(",")})
    form = Completions(server, spec(), tokens)
    replies = answers(form, requests)
    for request, reply in zip(requests, replies, strict=True):
        text, ids = tokens.prompt(request)
        labels = [first for (first,) in tokens.label_ids(request, text)]
        assert reply.scores == tuple(stub_module.logprob(ids, label) for label in labels)
    assert form.capabilities["label_scores"] == "logprobs"


@pytest.mark.parametrize("lacking", ["echo", "prompt_logprobs", "several_prompts,echo"])
def test_a_likelihood_is_summed_over_the_target_s_tokens_which_count_as_the_prompt_s(
    stub_module: ModuleType, tokens: Tokens, ask_of: Callable[..., list[Request]], lacking: str
) -> None:
    requests = ask_of({"method": "pointwise.qlm"}, [Ask("likelihood", (f"d0{i}",)) for i in range(5)])
    form = Completions(StubInProcess(stub_module, set(lacking.split(","))), spec(), tokens)
    for request, reply in zip(requests, answers(form, requests), strict=True):
        ids, target = tokens.prompt(request)[1], tokens.target(request)
        whole = ids + target
        expected = math.fsum(stub_module.logprob(whole[:i], whole[i]) for i in range(len(ids), len(whole)))
        assert reply == Reply(scores=(expected,), prompt_tokens=len(whole), completion_tokens=0)


def test_what_the_server_cannot_do_is_said_before_the_first_ask(
    stub_module: ModuleType, tokens: Tokens, ask_of: Callable[..., list[Request]]
) -> None:
    lacking = {"logprob_token_ids", "logprobs", "echo", "prompt_logprobs"}
    server = StubInProcess(stub_module, lacking)
    labels = ask_of({"method": "pointwise.yes_no"}, [score("d00")])
    with pytest.raises(InputError, match=r"no log-probabilities for stub \(.+\); set ranker\.scoring: generation"):
        answers(Completions(server, spec(), tokens), labels)
    with pytest.raises(InputError, match="no log-probabilities for stub"):
        answers(Chat(server, spec(), None), labels)
    target = ask_of({"method": "pointwise.qlm"}, [Ask("likelihood", ("d00",))])
    with pytest.raises(InputError, match="no log-probabilities of prompts for stub"):
        answers(Completions(server, spec(), tokens), target)
    with pytest.raises(InputError, match=r"model\.tokenizer"):
        answers(Completions(server, spec(), None), target)
    with pytest.raises(InputError, match=r"model\.api: completions"):
        answers(Chat(server, spec(), None), target)
    assert not server.stub.answered[0]
    assert all(body["prompt" if "prompt" in body else "messages"] for body in server.bodies)


def test_log_probabilities_that_are_not_over_the_whole_vocabulary_are_an_error(
    stub_module: ModuleType, tokens: Tokens, ask_of: Callable[..., list[Request]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub_module, "logprob", lambda prompt, token: 0.0)
    with pytest.raises(InputError, match="--logprobs-mode raw_logprobs"):
        answers(
            Completions(StubInProcess(stub_module, set()), spec(), tokens),
            ask_of({"method": "pointwise.yes_no"}, [score("d00")]),
        )


def test_written_text_goes_alone_greedily_or_by_the_ask_s_own_seed(
    stub_module: ModuleType, tokens: Tokens, ask_of: Callable[..., list[Request]]
) -> None:
    greedy = ask_of({"method": "setwise.heapsort", "scoring": "generation"}, [choose(["d00", "d01"])] * 2)
    server = StubInProcess(stub_module, set())
    answers(Completions(server, spec(), tokens, openai.NEUTRAL), greedy)
    assert [body["prompt"] for body in server.bodies] == [tokens.prompt(request)[1] for request in greedy]
    sampling = {"temperature": 0.0, "repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
    assert server.bodies[0] == {"model": "stub", "prompt": server.bodies[0]["prompt"], "max_tokens": 1, **sampling}
    sampled = ask_of(
        {"method": "setwise.heapsort", "scoring": "generation", "temperature": 0.7},
        [choose(["d00", "d01"]), choose(["d01", "d00"]), choose(["d00", "d01"])],
    )
    answers(Completions(server, spec(), tokens), sampled)
    seeds = [body["seed"] for body in server.bodies[2:]]
    assert seeds[0] == seeds[2] != seeds[1]
    assert all(body["temperature"] == 0.7 for body in server.bodies[2:])


# /chat/completions


def test_chat_scores_labels_by_the_listed_tokens_and_begins_the_answer_where_it_can(
    stub_module: ModuleType, ask_of: Callable[..., list[Request]]
) -> None:
    [request] = ask_of({"method": "setwise.heapsort"}, [choose(["d00", "d01"])])
    server = StubInProcess(stub_module, set())
    form = Chat(server, spec(), None)
    [reply] = answers(form, [request])
    turns = server.bodies[-1]["messages"]
    assert turns[-1] == {"role": "assistant", "content": " Passage:"}
    assert server.bodies[-1]["continue_final_message"] is True
    text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    assert reply.scores == tuple(stub_module.logprob(text, label) for label in "AB")
    assert form.capabilities["answer_prefix"] == "sent"
    without = Chat(StubInProcess(stub_module, {"continue_final_message"}), spec(), None)
    answers(without, [request])
    assert str(without.capabilities["answer_prefix"]).startswith("left out")


def test_a_label_that_chat_does_not_list_is_asked_for_among_the_labels_alone(
    stub_module: ModuleType, ask_of: Callable[..., list[Request]]
) -> None:
    [request] = ask_of({"method": "setwise.heapsort"}, [choose(["d00", "d01", "d02"])])
    two = spec(top_logprobs=2)
    form = Chat(StubInProcess(stub_module, set()), two, None)
    [reply] = answers(form, [request])
    [whole] = answers(Chat(StubInProcess(stub_module, set()), spec(), None), [request])
    assert reply.scores == pytest.approx(whole.scores)
    bound = Chat(StubInProcess(stub_module, {"structured_outputs"}), two, None)
    [reply] = answers(bound, [request])
    assert reply.scores is not None
    assert whole.scores is not None
    assert reply.scores[:2] == whole.scores[:2]
    assert reply.scores[2] == min(whole.scores[:2])
    assert bound.capabilities["labels_not_listed"] == 1


def test_the_length_of_an_answer_goes_under_the_name_that_the_server_takes(
    stub_module: ModuleType, ask_of: Callable[..., list[Request]]
) -> None:
    [request] = ask_of({"method": "listwise.sliding"}, [Ask("permute", ("d00", "d01", "d02"))])
    server = StubInProcess(stub_module, {"max_tokens"})
    [reply] = answers(Chat(server, spec(reasoning_effort="low"), None), [request])
    assert sorted((reply.text or "").split(" > ")) == ["[1]", "[2]", "[3]"]
    assert server.bodies[-1]["max_completion_tokens"] == 200
    assert server.bodies[-1]["reasoning_effort"] == "low"


def test_thoughts_are_kept_apart_from_the_answer(ask_of: Callable[..., list[Request]]) -> None:
    requests = ask_of({"method": "setwise.heapsort", "scoring": "generation"}, [choose(["d00", "d01"])])

    class Server:
        async def send(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Any], *_: Any) -> Any:
            return read({"choices": [said]})

    def reply(message: Mapping[str, Any], reason: str = "stop") -> Reply:
        said.update(message=message, finish_reason=reason)
        [answer] = answers(Chat(Server(), spec(), None), requests)
        return answer

    said: dict[str, Any] = {}

    told = {"content": "[2] > [1]", "reasoning": "First </think> [1] > [2]."}
    assert reply(told).text == "<think>First (/think) [1] > [2].</think>[2] > [1]"
    assert reply({"content": "B", "reasoning_content": "A?"}).text == "<think>A?</think>B"
    assert reply({"content": None, "reasoning": "so"}, "length").text == "<think>so"
    assert reply({"content": "<think>x</think>B"}).text == "<think>x</think>B"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ends<|im_end|>here", "ends< |im_end|>here"),
        ("</s> and [INST] <<SYS>>", "< /s> and [ INST] < <SYS>>"),
        ("<end_of_turn><\uff5cUser\uff5c>", "< end_of_turn>< \uff5cUser\uff5c>"),
        ("a < b, [3] and <div>", "a < b, [3] and <div>"),
    ],
)
def test_texts_that_a_server_tokenises_have_no_control_tokens(text: str, shown: str) -> None:
    assert disarmed(text) == shown


# Labels among the listed tokens


def test_labels_are_found_by_their_text() -> None:
    listed = [(" A", -0.1), ("A", -0.5), ("B ", -1.0), ("Highly", -2.0), ("C.", -3.0)]
    assert by_text(listed, ["A", "B", "C"]) == [-0.5, -1.0, None]
    assert by_text(listed, ["A", "B"], gap=" ") == [-0.1, -1.0]
    assert by_text(listed, ["Highly Relevant", "Not Relevant"]) == [-2.0, None]
    assert by_text(listed, ["Highly Relevant", "Highly Irrelevant"]) == [None, None]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 0.5, -9999.0, -1e300, None, "-1", True, 10**400, [-1]]
)
def test_what_is_no_log_probability_is_not_listed(value: object) -> None:
    assert log_probability(value) is None


def test_a_log_probability_is_at_most_zero() -> None:
    assert [log_probability(value) for value in (-1.5, 0, 1e-7, -9998)] == [-1.5, 0.0, 0.0, -9998.0]


def test_what_is_not_listed_is_bounded_by_what_is() -> None:
    assert bounded([-1.0, None], [-1.0, -2.0]) == [-1.0, -2.0]
    nearly_all = [-0.01, -9.0]
    assert bounded([-0.01, None], nearly_all) == [-0.01, min(-9.0, math.log(1 - math.exp(-0.01) - math.exp(-9.0)))]
    assert bounded([0.0, None], [0.0, -30.0]) == [0.0, -30.0]
    assert bounded([None, None], [-1.0]) is None
    assert shifted([-3.0, None], [-0.5, -1.5]) == [-3.0, -4.0]
    assert shifted([None, None], [-0.5, -1.5]) is None


# /rerank and /score


@pytest.mark.parametrize(("endpoint", "lacking"), [("auto", set()), ("auto", {"rerank"}), ("score", set())])
def test_cross_encoders_are_asked_about_several_passages_of_a_query_at_once(
    stub_module: ModuleType, ask_of: Callable[..., list[Request]], endpoint: Any, lacking: set[str]
) -> None:
    requests = ask_of({"method": "pointwise.cross_encoder"}, [Ask("relevance", (f"d0{i}",)) for i in range(5)])
    server = StubInProcess(stub_module, lacking)
    form = Rerank(server, spec(api=endpoint), None)
    replies = answers(form, requests)
    query = "how many moons has mars"
    assert [reply.scores for reply in replies] == [
        (stub_module.chance(query, f"passage number {i} about moons"),) for i in range(5)
    ]
    assert [len(body.get("documents", body.get("text_2"))) for body in server.bodies[-2:]] == [4, 1]


@pytest.mark.parametrize("together", [1, 4])
def test_tokens_are_counted_the_same_however_many_asks_share_a_request(
    stub_module: ModuleType, ask_of: Callable[..., list[Request]], together: int
) -> None:
    requests = ask_of({"method": "pointwise.yes_no"}, [score(f"d0{i}") for i in range(4)])
    server = StubInProcess(stub_module, set())
    replies = answers(Completions(server, spec(prompts_per_request=together), None), requests)
    assert [reply.prompt_tokens for reply in replies] == [None] * 4


class Listwise:
    """A rerank endpoint that scores passages beside each other."""

    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self.calls = 0

    async def send(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], Any], most: Mapping[str, int]
    ) -> Any:
        self.bodies.append(body)
        self.calls += most["calls"]
        count = len(body["documents"])
        return read({"results": [{"index": i, "relevance_score": i / count} for i in range(count)]})


def test_scores_that_depend_on_the_group_are_refused_unless_reckoned_with(
    ask_of: Callable[..., list[Request]], make_candidates: Callable[..., Any]
) -> None:
    asks = [Ask("relevance", (f"d0{i}",)) for i in (3, 1)]
    requests = ask_of({"method": "pointwise.cross_encoder"}, asks)
    jina = spec(name="jina-reranker-v3", prompts_per_request=1, api="rerank")
    with pytest.raises(InputError, match=r"set model\.group_scores: true"):
        answers(Rerank(Listwise(), jina, None), requests)
    server = Listwise()
    replies = answers(Rerank(server, spec(api="rerank", group_scores=True), None), requests)
    assert [reply.scores for reply in replies] == [(3 / 5,), (1 / 5,)]
    assert [len(body["documents"]) for body in server.bodies] == [2, 5]  # the probe, and all candidates once
    assert server.calls == 5  # of which a budget counts each
    backend = openai.open(options("http://localhost:1/v1", group_scores=True), Setting())
    assert backend.identity["group_scores"] is True
    assert replay.Recorded(backend.identity).group_scores  # or a merge would look its answers up under other keys
    ranker = Ranker.create({"method": "pointwise.cross_encoder"})
    keys = {Requests(ranker, backend, make_candidates(docs)).request(asks[0]).key for docs in (4, 5)}
    assert len(keys) == 2


def test_tei_is_asked_in_its_own_words(ask_of: Callable[..., list[Request]]) -> None:
    class Tei:
        async def send(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Any], *_: Any) -> Any:
            if "texts" not in body:
                raise AttemptError("wrong", "missing field `texts`", 422)
            return read([{"index": i, "score": float(i)} for i in reversed(range(len(body["texts"])))])

    form = Rerank(Tei(), spec(), None)
    requests = ask_of({"method": "pointwise.cross_encoder"}, [Ask("relevance", ("d00",)), Ask("relevance", ("d01",))])
    assert [reply.scores for reply in answers(form, requests)] == [(0.0,), (1.0,)]
    assert form.capabilities["relevance"] == "rerank (TEI)"


@pytest.mark.parametrize(
    "rows", [[], [(0, 0.5)], [(0, 0.5), (0, 0.5)], [(0, 0.5), (1, math.nan)], [(0, 0.5), (2, 0.5)]]
)
def test_scores_that_are_not_one_a_passage_are_malformed(rows: list[tuple[int, float]]) -> None:
    with pytest.raises(MalformedError):
        _scores({"results": [{"index": index, "relevance_score": score} for index, score in rows]}, 2)


# The whole way


def test_a_ranking_through_a_server(
    shared_stub: str, tiny_llama: Path, make_candidates: Callable[..., Any], rank: Callable[..., Any]
) -> None:
    queries = [make_candidates(6, f"q{i}", f"query {i}") for i in range(4)]
    backend = openai.open(options(shared_stub, tokenizer=str(tiny_llama), max_concurrency=32), Setting())
    found = rank({"method": "pointwise.yes_no"}, backend, queries)
    assert sum(cost.calls for _, cost in found) == 24
    assert all(cost.prompt_tokens > 0 and cost.completion_tokens == 0 for _, cost in found)
    details = backend.details
    backend.close()
    json.dumps(details)
    assert details["api"] == "completions"
    assert details["server"] == "stub"
    assert details["capabilities"] == {
        "several_prompts_a_request": True,
        "label_scores": "logprob_token_ids",
    }
    assert details["spent"]["calls"] == 24
    assert details["spent"]["prompt_tokens"] > sum(cost.prompt_tokens for _, cost in found)  # with those of the probes


def test_operations_are_counted_where_the_model_s_config_lies_beside_its_tokenizer(
    serve: Callable[..., Any], tiny_llama: Path, make_candidates: Callable[..., Any], rank: Callable[..., Any]
) -> None:
    def flops(backend: Backend) -> float | None:
        [(_, cost)] = rank({"method": "pointwise.yes_no"}, backend, [make_candidates(3)])
        backend.close()
        return cost.flops

    def served(name: str) -> Backend:
        stub = serve("stub_server.py", "--model", name)
        return openai.open(options(stub.url, name=name, tokenizer=str(tiny_llama)), Setting())

    assert flops(served("another")) is None  # it may have borrowed the tokenizer
    here = transformers_backend.open(transformers_backend.Options(name=str(tiny_llama), device="cpu"), Setting())
    assert flops(served(str(tiny_llama))) == flops(here) is not None


def test_the_price_that_was_reckoned_with_is_told() -> None:
    prices = {"prompt": 0.15, "completion": 0.6}
    backend = openai.open(options("http://localhost:1/v1", prices=prices), Setting())
    assert backend.details["usd_per_million_tokens"] == prices
    assert "usd_per_million_tokens" not in openai.open(options("http://localhost:1/v1"), Setting()).details


def test_no_more_asks_are_open_than_allowed(
    serve: Callable[..., Any], make_candidates: Callable[..., Any], rank: Callable[..., Any]
) -> None:
    stub = serve("stub_server.py", "--delay", "0.01")
    for api in ("chat", "completions"):
        backend = openai.open(options(stub.url, api=api, max_concurrency=5), Setting())
        rank({"method": "pointwise.yes_no"}, backend, [make_candidates(30)])
        backend.close()
    with urllib.request.urlopen(stub.url.replace("/v1", "/stats")) as reply:
        assert json.load(reply)["most_at_once"] == 5


def test_identity_is_what_the_answers_depend_on(tiny_llama: Path) -> None:
    def identity(**more: Any) -> Mapping[str, object]:
        return openai.open(options("http://localhost:1/v1", **more), Setting()).identity

    plain = identity()
    assert plain == {"backend": "openai", "model": "stub", "api": "chat", "top_logprobs": 20}
    speed: dict[str, Any] = {"base_url": ["http://a/v1", "http://b/v1"], "max_concurrency": 1, "timeout": 1.0}
    assert identity(**speed, budget=Limits(calls=3), api_key_env="OTHER", retries=0) == plain
    tokenizer = identity(tokenizer=str(tiny_llama))
    assert tokenizer["api"] == "completions"
    assert len(str(tokenizer["tokenizer"])) == 64
    assert identity(extra_body={"chat_template_kwargs": {"enable_thinking": False}}) != plain
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    assert identity(**thinking) == identity(extra_body=thinking)
    assert len(str(tokenizer["chat_template"])) == 64
    assert identity(tokenizer=str(tiny_llama), **thinking)["chat_template"] != tokenizer["chat_template"]
    assert identity(tokenizer=str(tiny_llama), chat_template="none")["chat_template"] == "none"
    assert identity(reasoning_effort="low") != plain
    assert identity(omit=["temperature"]) != plain


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(
            ({"base_url": url}, "no address of a server")
            for url in (
                "localhost:8000",
                "http://",
                "http:///v1",
                "http://localhost:99999/v1",
                "http://localhost:0/v1",
                "http://localhost:http/v1",
                "http://[::1/v1",
                "http://::1:8000/v1",
                "http://a b/v1",
                "http://localhost/v1?key=1",
                "http://me:secret@localhost:99999",
                "ftp://localhost",
                "",
            )
        ),
        ({"base_url": "http://me:secret@localhost:8000/v1"}, "secrets come from the environment"),
        ({"base_url": []}, "an empty list"),
        ({"chat_template": "none"}, "model.chat_template: the server renders prompts; set model.tokenizer"),
        ({"chat_template_kwargs": {"a": 1}, "api": "completions"}, "api completions has no chat template"),
        ({"tokenizer": "./nowhere"}, "model.tokenizer: no folder"),
        ({"budget": Limits(usd=1.0)}, "no price of stub is known"),
    ],
)
def test_wrong_options_are_errors_before_the_server_is_reached(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as raised:
        openai.open(openai.Options(**({"name": "stub", "base_url": "http://localhost:1/v1"} | given)), Setting())
    assert said in str(raised.value)
    assert "secret@" not in str(raised.value)


def test_an_address_of_six_parts_is_one() -> None:
    assert openai.open(options("http://[::1]:8000/v1"), Setting())


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-sch\u00f6n", "sk-\x1b[31m"])
def test_a_key_that_no_request_can_carry_is_the_user_s_error(
    ask_of: Callable[..., list[Request]], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("ODD_KEY", key)
    backend = openai.open(options("http://localhost:1/v1", api_key_env="ODD_KEY"), Setting())
    backend.submit(ask_of({"method": "pointwise.yes_no"}, [score("d00")]))
    with pytest.raises(InputError, match="ODD_KEY holds line breaks") as raised:
        backend.collect()
    assert "sk-" not in str(raised.value)


def test_a_key_is_masked_before_a_text_is_cut() -> None:
    key = "sk-" + "0123456789" * 3
    access = ServerSpec(openai.Options(name="stub"), key=key)
    for before in range(260, 310):
        assert "0123" not in access.shown("x" * before + f" {key} and more")


@pytest.mark.parametrize(
    ("model", "method", "said"),
    [
        ({"name": "other"}, "pointwise.yes_no", "does not serve 'other'; it serves stub"),
        ({"api": "rerank"}, "pointwise.yes_no", "model.api: rerank serves cross-encoders' asks alone"),
        ({"api": "chat"}, "pointwise.cross_encoder", "model.api: chat does not serve cross-encoders' asks"),
    ],
)
def test_what_does_not_fit_the_server_is_the_user_s_error(
    shared_stub: str,
    make_candidates: Callable[..., Any],
    rank: Callable[..., Any],
    model: dict[str, Any],
    method: str,
    said: str,
) -> None:
    backend = openai.open(options(shared_stub, **model), Setting())
    with pytest.raises(InputError) as raised:
        rank({"method": method}, backend, [make_candidates(3)])
    assert said in str(raised.value)
    with pytest.raises(InputError):
        backend.collect()  # it stays so
    backend.close()


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (AttemptError("wrong", "Unsupported value", 400, "temperature"), "set model.omit: [temperature]"),
        (AttemptError("wrong", "unknown field 'seed'", 400), "set model.omit: [seed]"),
        (AttemptError("wrong", "maximum context length is 2048", 400, "input_tokens"), "lower ranker.passage_tokens"),
        (AttemptError("wrong", "Not Found", 404), "has no /chat/completions"),
    ],
)
def test_a_refusal_names_its_remedy(ask_of: Callable[..., list[Request]], error: AttemptError, remedy: str) -> None:
    [request] = ask_of({"method": "pointwise.yes_no"}, [score("d00")])
    assert remedy in str(openai.OpenAI(options("http://localhost:1/v1"), 0)._refused(error, request))
