"""Recorded answers instead of a model.

- A JSONL file, one {"query_id": …, "text": …} a line, is consumed in order for each query: nothing is shared or
  looked up, and each answer must be used exactly once.
- A ledger (`.sqlite`) answers exactly the asks that are in it: a replay can never call a model.
"""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from .. import catalog
from ..answers.reading import Reply
from ..errors import InputError
from ..ledger import Ledger
from ..marks import PathMark
from .base import Answered, Backend, ModelOptions, Request, Setting

SHOWN = 16  # the characters of a model's values that an error shows: enough of a hash to tell models apart


class Options(ModelOptions):
    """Keys of the `model` section."""

    recorded = True

    answers: Annotated[str, PathMark("named file")] = Field(
        description="a JSONL file of recorded answers, or a run's ledger.sqlite"
    )
    of: dict[str, Any] | None = Field(
        None,
        description="which model, where the ledger has several: keys of its identity, and how each value begins",
    )

    @property
    def remembers(self) -> bool:
        """Return whether the recording is a ledger, whose answers a ledger can keep."""
        return Path(self.answers).suffix == ".sqlite"


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001, ARG001 - every backend's entry
    """Return a backend that answers from the file. Raises `InputError` if it is missing or malformed."""
    path = Path(options.answers)
    if not path.is_file():
        raise InputError(f"model.answers: no file {path}")
    return LedgerReplay(path, options.of) if options.remembers else TextReplay(path)


class TextReplay(Backend):
    """Answers each query's asks with its recorded texts, in order."""

    recorded = True
    remembers = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        content = path.read_bytes()
        self.identity = {"backend": "replay", "answers": hashlib.sha256(content).hexdigest()}
        self.texts: defaultdict[str, deque[str]] = defaultdict(deque)
        for number, line in enumerate(content.splitlines(), 1):
            try:
                record = json.loads(line)
                query_id, text = record["query_id"], record["text"]
                if not isinstance(text, str):
                    raise TypeError("text is no string")
            except (ValueError, TypeError, KeyError) as error:
                form = '{"query_id": …, "text": …}'
                raise InputError(f"{path}, line {number}: expected {form}, found {line[:60]!r}") from error
            self.texts[str(query_id)].append(text)

    @property
    def details(self) -> Mapping[str, object]:
        """Return the file's name."""
        return {"answers": self.path.name}

    def collect(self) -> Answered:
        """Answer everything that waits. Raises `InputError` if a query has no recorded answer left."""
        answered = []
        for request in self.take():
            if not (texts := self.texts[request.query.id]):
                problem = f"{self.path}: query {request.query.id} asks for more answers than are recorded"
                raise InputError(f"{problem}; replay with the method and settings of the recording")
            answered.append((request, Reply(texts.popleft())))
        return answered

    def close(self) -> None:
        """Raise `InputError` if recorded answers were left unused."""
        if left := {query_id: len(texts) for query_id, texts in self.texts.items() if texts}:
            query_id, count = next(iter(left.items()))
            problem = f"{sum(left.values())} recorded answers of {len(left)} queries were not used, {count} of them of"
            remedy = "replay with the method, settings and queries of the recording"
            raise InputError(f"{self.path}: {problem} query {query_id}; {remedy}")


class Recorded(Backend):
    """A model by what was recorded of it: it has answered, and answers no more."""

    recorded = True

    def __init__(self, identity: Mapping[str, object], details: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.identity, self._details = identity, details or {}
        name = str(identity["backend"])
        self.simulated = name in catalog.names("backend") and catalog.backend(name).Options.simulated
        self.group_scores = bool(identity.get("group_scores"))
        self.architecture = "encoder_decoder" if identity.get("architecture") == "encoder_decoder" else "decoder_only"

    @property
    def details(self) -> Mapping[str, object]:
        """Return what was recorded beside the identity."""
        return self._details

    def collect(self) -> Answered:
        """Look up everything that waits. Raises `InputError` for an ask whose answer was not recorded."""
        return [(request, self._reply(request)) for request in self.take()]

    def _reply(self, request: Request, where: str = "") -> Reply:
        problem = f"{where}no answer for query {request.query.id} about {', '.join(request.ask.docs)} was recorded"
        raise InputError(f"{problem}; replay with the dataset, ranker and seed of the recording")


class LedgerReplay(Recorded):
    """Answers from the ledger of an earlier run, as the model that wrote it, or as the chosen one of several."""

    def __init__(self, path: Path, of: Mapping[str, object] | None = None) -> None:
        self.path, self.ledger = path, Ledger(path, read_only=True)
        super().__init__(_chosen(path, self.ledger.models(), of or {}))

    @property
    def details(self) -> Mapping[str, object]:
        """Return the ledger's name and content hash: the identity is that of the recorded model."""
        return {"answers": self.path.name, "content": self.ledger.digest()}

    def _reply(self, request: Request, where: str = "") -> Reply:
        return self.ledger.get(request.key) or super()._reply(request, f"{self.path}: {where}")

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()


def _chosen(path: Path, models: Sequence[Mapping[str, object]], of: Mapping[str, object]) -> Mapping[str, object]:
    """Return the one of a ledger's models that has all of these values, or strings that begin with them."""

    def fits(model: Mapping[str, object]) -> bool:
        pairs = ((model.get(key), value) for key, value in of.items())
        return all(own == value or (isinstance(own, str) and own.startswith(str(value))) for own, value in pairs)

    fitting = [model for model in models if model == of] or [model for model in models if fits(model)]
    if len(fitting) != 1:
        count = f", {len(fitting)} of which fit {dict(of)}" if of else ""
        known = "; ".join(", ".join(f"{key}: {str(value)[:SHOWN]}" for key, value in each.items()) for each in models)
        remedy = f"a replay needs those of one, so say which with `of: {{key: value}}`: {known}"
        raise InputError(f"{path}: holds answers of {len(models)} models{count}; {remedy}")
    return dict(fitting[0])
