"""What there is to choose from, and that a new method, prompt or backend is one new file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import r2llm
from r2llm.rerankers import catalog
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.types import Params


def test_methods_prompts_and_backends_are_files() -> None:
    assert {"pointwise.yes_no", "setwise.bubblesort", "setwise.heapsort"} <= set(catalog.names("method"))
    assert {"setwise", "yes_no"} <= set(catalog.names("prompt"))
    assert {"replay", "simulated", "transformers"} <= set(catalog.names("backend"))
    for names in (catalog.names("method"), catalog.names("prompt"), catalog.names("backend")):
        assert names == sorted(set(names))
        assert not any("_" in (name[0], name.rpartition(".")[2][0]) for name in names)


@pytest.mark.parametrize("name", catalog.names("method"))
def test_every_method_has_parameters_with_meaning_a_summary_and_a_prompt_that_serves_it(name: str) -> None:
    method = catalog.method(name)
    assert method.name == name
    assert method.run.__name__ == name.rpartition(".")[2]
    assert issubclass(method.params, Params)
    assert method.summary.endswith((".", "?", '"', ":"))
    assert all(field.description for field in method.params.model_fields.values())
    assert method.params.prompt in catalog.names("prompt")
    assert method.params.asks


@pytest.mark.parametrize("name", catalog.names("backend"))
def test_every_backend_says_what_it_takes(name: str) -> None:
    module = catalog.backend(name)
    assert callable(module.open)
    assert all(field.description for field in module.Options.model_fields.values())


@pytest.mark.parametrize(
    ("look_up", "name", "message"),
    [
        (catalog.method, "setwise.heapsrt", "unknown method 'setwise.heapsrt'; did you mean 'setwise.heapsort'"),
        (catalog.method, "yes_no", "unknown method 'yes_no'; did you mean 'pointwise.yes_no'"),
        (catalog.method, "setwise.__init__", "unknown method 'setwise.__init__'"),
        (catalog.method, "../setwise.heapsort", "unknown method '../setwise.heapsort'"),
        (catalog.backend, "transformer", "unknown backend 'transformer'; did you mean 'transformers'?"),
        (catalog.backend, "_tokens", "unknown backend '_tokens'"),
        (catalog.prompt_file, "yesno", "unknown prompt 'yesno'; did you mean 'yes_no'?"),
        (catalog.prompt_file, "zzz", "unknown prompt 'zzz'; `r2llm list prompts` shows "),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_ones(look_up, name: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        look_up(name)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


METHOD = '''\
"""The first stage upside down, whatever the model says."""

from typing import ClassVar

from pydantic import Field

from ...types import AskKind, Candidates, Ranking, Steps, score
from ...types import Params as BaseParams


class Params(BaseParams):
    """Parameters of reverse."""

    asks: ClassVar[tuple[AskKind, ...]] = ("score",)
    prompt: ClassVar[str] = "curt"

    repeats: int = Field(1, ge=1, description="how often each document is asked about")


def reverse(candidates: Candidates, params: Params) -> Steps:
    """The candidates, last first."""
    for _ in range(params.repeats):
        yield [score(doc) for doc in candidates.ids]
    return Ranking(candidates.ids[::-1])
'''

PROMPT = """\
source: made for this test
asks: [score]
messages: [{role: user, content: "{query}? {passages}"}]
labels: {"Yes": 1.0, "No": 0.0}
"""

BACKEND = '''\
"""Says Yes."""

from ..answers.reading import Reply
from .base import Backend, ModelOptions


class Options(ModelOptions):
    """Keys of the `model` section."""

    word: str = "Yes"


class Agreeable(Backend):
    architecture = "decoder_only"
    simulated = False
    remembers = True

    def __init__(self, word):
        super().__init__()
        self.word = word
        self.identity = {"backend": "agreeable", "word": word}

    def collect(self):
        return [(request, Reply(text=self.word)) for request in self.take()]

    def close(self):
        pass


def open(options, setting):
    return Agreeable(options.word)
'''

SCRIPT = """\
import json
from pathlib import Path
import r2llm
from r2llm.rerankers import catalog
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Candidates, Doc, Query

module = catalog.backend("agreeable")
ranker = Ranker.create({"method": "pointwise.reverse", "scoring": "generation", "repeats": 2})
candidates = Candidates(Query("q", "moons"), (Doc("a", "x"), Doc("b", "y"), Doc("c", "z")), (3.0, 2.0, 1.0))
scheduler = Scheduler(ranker, module.open(module.Options(word="yes"), Setting()), Ledger(None))
[(ranking, cost)] = scheduler.rank([candidates])
print(json.dumps({
    "package": str(Path(r2llm.__file__).parent),
    "methods": catalog.names("method"), "prompts": catalog.names("prompt"), "backends": catalog.names("backend"),
    "summary": catalog.method("pointwise.reverse").summary, "prompt": ranker.prompt.name,
    "ranking": ranking.docs, "asks": cost.asks, "calls": cost.calls, "rounds": cost.rounds, "unparsed": cost.unparsed,
}))
"""


def test_a_method_a_prompt_and_a_backend_are_added_by_one_file_each(tmp_path: Path) -> None:
    package = tmp_path / "r2llm"
    (package / "rerankers").parent.mkdir()
    installed = Path(r2llm.__file__).parent
    shutil.copy(installed / "__init__.py", package)
    for room in ("rerankers", "pipeline", "cli"):
        shutil.copytree(installed / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "rerankers/methods/pointwise/reverse.py").write_text(METHOD)
    (package / "rerankers/prompts/curt.yaml").write_text(PROMPT)
    (package / "rerankers/backends/agreeable.py").write_text(BACKEND)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert Path(said["package"]) == package
    assert said["methods"] == sorted([*catalog.names("method"), "pointwise.reverse"])
    assert said["prompts"] == sorted([*catalog.names("prompt"), "curt"])
    assert said["backends"] == sorted([*catalog.names("backend"), "agreeable"])
    assert said["summary"] == "The first stage upside down, whatever the model says."
    assert said["prompt"] == "curt"
    assert said["ranking"] == ["c", "b", "a"]
    # The second round asks the same as the first: its answers are in the ledger.
    assert (said["asks"], said["calls"], said["rounds"], said["unparsed"]) == (6, 3, 2, 0)
