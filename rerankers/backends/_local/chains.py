"""Cross-encoders as sentence-transformers saves them since 5.4: a chain of modules that the folder names itself.

`modules.json` names a Transformer and, after it, LogitScore (the logit of a token at the last position, or that of one
less that of another) or Pooling with layers, of which the last one gives the score. Where the Transformer takes
messages, a pair is rendered by the folder's chat template, for the roles system (the instruction), query and document.
The folder's activation is left out: it keeps the order.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._tokens.pairs import PairForm
from .._tokens.tokens import Batch
from ..base import Answered
from .loading import Source, read_json
from .passes import Passes
from .scores import scored


@dataclass(frozen=True)
class Chain:
    """How a folder has pairs read and scored: by LogitScore's tokens, if it ends in that, or else by its layers."""

    tokens: tuple[int, int | None] | None
    form: PairForm

    @classmethod
    def of(cls, source: Source) -> Chain | None:
        """Return the chain of a model's folder, or None if it has none that gives scores."""
        *_, last = read_json(source, "modules.json") or [{"type": "", "path": ""}]
        about = read_json(source, f"{last['path']}/config.json") if last["path"] else {}
        ends = last["type"].rpartition(".")[2] == "LogitScore"
        if not ends and about.get("module_output_name") != "scores":
            return None
        reading = read_json(source, "sentence_bert_config.json")
        saved = read_json(source, "config_sentence_transformers.json")
        more = reading.get("processing_kwargs", {})
        messages = "message" in reading.get("modality_config", {})
        instruction = saved.get("prompts", {}).get(saved.get("default_prompt_name"), "")
        form = PairForm(
            instruction=instruction if messages else None,
            variables={"add_generation_prompt": False} | more.get("chat_template", {}),
            longest=more.get("text", {}).get("max_length") or reading.get("max_seq_length"),
        )
        return cls((about["true_token_id"], about.get("false_token_id")) if ends else None, form)


@dataclass(frozen=True)
class LogitScore:
    """A language model whose logit of a token at the last position, less another's, is the relevance."""

    passes: Passes
    tokens: tuple[int, int | None]

    def scores(self, batch: Batch) -> Answered:
        """Return the relevance of each passage to its query."""
        rows, (true, false) = self.passes.last_logits(batch).double(), self.tokens
        relevance = (rows[:, true] if false is None else rows[:, true] - rows[:, false]).tolist()
        return [scored(prompt, [score], rows.dtype) for prompt, score in zip(batch, relevance, strict=True)]
