"""Text generation, greedy or sampled, up to an end token, a stop sequence or the token budget.

Each prompt of a batch has a budget and chance of its own, so that its text does not depend on those beside it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...answers.reading import Reply, span_of
from ...errors import BackendError
from .._tokens.tokens import Batch, Prepared, Tokens
from ..base import Answered
from .passes import Passes
from .rewrites import cache_for_few
from .scores import first_token_scores, scored

if TYPE_CHECKING:
    import torch

LISTED = 20  # labels among so many likeliest tokens at a text's end are its answer (orionw/rank1 at 30585c2)
FEW = 4  # tokens for which the keys and values of a prompt, for T5's decoder, are not worth computing
SPARE = 8  # tokens searched for a stop sequence besides one for each of its bytes: characters may share tokens


@dataclass
class _Text:
    """The text generated for a prompt, of at most `budget` tokens."""

    prompt: Prepared
    budget: int
    dice: random.Random
    ids: list[int] = field(default_factory=list)
    done: bool = False
    log_probabilities: list[float] = field(default_factory=list)
    """Of the tokens, where the prompt asks for that of a written label."""

    last: torch.Tensor | None = None
    """The scores of all tokens where the last one was chosen."""


class Generator:
    """A model that generates text; takes its own settings from it, which `generate` would use unasked."""

    def __init__(self, passes: Passes, seed: int) -> None:
        import transformers

        self.passes, self.tokens, self.seed = passes, passes.tokens, seed
        self._settings: Any = passes.model.generation_config
        passes.model.generation_config = transformers.GenerationConfig()
        ends = self._settings.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def generate(self, batch: Batch) -> Answered:
        """Return the texts for prompts with equal settings. Raises `BackendError` if the scores are not numbers."""
        import torch

        inputs = self.passes.inputs(batch)
        inputs.pop("position_ids", None)  # generate() makes its own
        texts = [_Text(prompt, self.tokens.answer_tokens(prompt.request), self._dice(prompt)) for prompt in batch]

        def choose(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """Add a token to each text; return scores, a row a text, by which `generate` takes the same."""
            chosen = self._chosen(texts, scores)
            for text, token, row in zip(texts, chosen.tolist(), scores, strict=True):
                if not text.done:
                    self._add(text, token, row)
            return torch.full_like(scores, -torch.inf).scatter(1, chosen.unsqueeze(1), 0.0)

        def ended(ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            return torch.tensor([text.done for text in texts], device=ids.device)

        few = self.passes.encoder_decoder and max(text.budget for text in texts) <= FEW
        cache = cache_for_few(self.passes.model) if few else copy.deepcopy(self.passes.prefix(batch))
        inputs |= {} if cache is None else {"past_key_values": cache}
        self.passes.model.generate(
            **inputs, generation_config=self._configured(texts), logits_processor=[choose], stopping_criteria=[ended]
        )
        return [(text.prompt.request, self._reply(text)) for text in texts]

    def _dice(self, prompt: Prepared) -> random.Random:
        return random.Random(int.from_bytes(prompt.request.key[:8]) ^ self.seed)  # noqa: S311

    def _configured(self, texts: Sequence[_Text]) -> Any:
        import transformers

        # The model's own repetition penalty would turn [1] > [10] around.
        follows = texts[0].prompt.request.terms.model_settings
        config = copy.deepcopy(self._settings) if follows else transformers.GenerationConfig()
        most = max(text.budget for text in texts)
        more: dict[str, Any] = {"max_new_tokens": most, "num_beams": 1, "do_sample": False}  # `_chosen` samples
        more |= {"pad_token_id": self.tokens.pad, "eos_token_id": self._settings.eos_token_id}
        # Else `generate` refuses a cache that is given to it, or reads the whole prompt into it again.
        more |= {"use_cache": True, "cache_implementation": None, "prompt_lookup_num_tokens": None}
        more["decoder_start_token_id"] = self.passes.start if self.passes.encoder_decoder else None
        config.update(**more)
        return config

    def _chosen(self, texts: Sequence[_Text], scores: torch.Tensor) -> torch.Tensor:
        """Return the next token of each text, a row of scores each."""
        import torch

        request = texts[0].prompt.request
        if not texts[0].ids and not torch.isfinite(scores.amax(dim=-1)).all():
            raise BackendError(
                f"query {request.query.id}: the model's scores are not numbers; use dtype: bfloat16 or float32"
            )
        decoding = request.terms.decoding
        if not decoding.temperature:
            return scores.argmax(dim=-1)
        chances = [text.dice.random() for text in texts]
        return drawn(scores / decoding.temperature, decoding.top_p, chances, decoding.top_k)

    def _add(self, text: _Text, token: int, scores: torch.Tensor) -> None:
        import torch

        request = text.prompt.request
        text.ids.append(token)
        text.last = scores
        if request.prompt.answer.scored == "written":
            text.log_probabilities.append(float(torch.log_softmax(scores.double(), dim=-1)[token]))
        stops = request.terms.decoding.stop
        latest = text.ids[-max((len(stop.encode()) for stop in stops), default=0) - SPARE :]
        written = self.tokens.tokenizer.decode(latest, skip_special_tokens=True) if stops else ""
        text.done = token in self._ends or len(text.ids) >= text.budget or any(stop in written for stop in stops)

    def _reply(self, text: _Text) -> Reply:
        """Return a text as a reply, maybe with the labels' log-probabilities at its last token or after its closing."""
        import torch

        request = text.prompt.request
        reply = text_reply(self.tokens, text.prompt, text.ids, text.log_probabilities)
        if request.prompt.answer.scored != "after_thought":
            return reply
        closed = self.tokens.closed(text.prompt, reply.text or "")
        rows = torch.log_softmax(text.last.double(), dim=-1) if text.last is not None else torch.empty(0)
        scores = rows[[label for (label,) in self.tokens.label_ids(request, closed.text)]]
        if scores.amin() >= rows.topk(min(LISTED, len(rows))).values[-1]:
            return replace(reply, scores=tuple(scores.tolist()))
        [of_closed] = first_token_scores(self.passes, [closed])
        return replace(reply, scores=scored(closed, of_closed, self.passes.model.dtype)[1].scores)


def text_reply(tokens: Tokens, prompt: Prepared, ids: Sequence[int], log_probabilities: Sequence[float]) -> Reply:
    """Return the reply that generated tokens are.

    Where the prompt asks for it, its score is the log-probability of the tokens that wrote the part that is read.
    """
    from bisect import bisect_right

    def decoded(count: int | None = None) -> str:
        return str(tokens.tokenizer.decode(ids[:count], skip_special_tokens=True))

    text, scores, answer = decoded(), None, prompt.request.prompt.answer
    if answer.scored == "written" and answer.pattern and (span := span_of(answer.pattern, text)) is not None:
        first, last = (
            bisect_right(range(len(ids)), place, key=lambda count: len(decoded(count)))
            for place in (span[0], span[1] - 1)
        )
        scores = (sum(log_probabilities[first - 1 : last]),)
    text = prompt.thought + prompt.request.terms.decoding.before_stop(text)
    return Reply(text, scores, prompt_tokens=len(prompt.ids), completion_tokens=len(ids))


def drawn(scores: torch.Tensor, top_p: float, chances: Sequence[float], top_k: int | None = None) -> torch.Tensor:
    """Return the token that chance (0 to 1) draws in each row from the likeliest.

    Those are the `top_k` first and, of them, as many as have `top_p` of their probability.
    """
    import torch

    if top_k is not None and top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    probabilities = torch.softmax(scores.double(), dim=-1)
    order = None
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.where(before < top_p, 0.0)
    sums = probabilities.cumsum(dim=-1)
    wanted = torch.tensor(chances, dtype=sums.dtype, device=sums.device).unsqueeze(1) * sums[:, -1:]
    places = (sums <= wanted).sum(dim=-1, keepdim=True)
    # Where rounding leaves the sum short, the last token with any probability is drawn.
    places = places.minimum((sums < sums[:, -1:]).sum(dim=-1, keepdim=True))
    return (places if order is None else order.gather(1, places)).squeeze(1)
