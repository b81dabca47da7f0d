"""Text that a model writes: greedy or sampled, until it ends, meets a stop text, or is as long as the terms allow.

A batch is written by transformers' `generate`. Each prompt has limits and chance of its own, so that what it gets does
not depend on those beside it. Where half of a batch is done the other half goes on alone, with the keys and values that
it has, so that a long answer does not hold up short ones for long.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...answers.reading import Reply
from ...errors import BackendError
from .._tokens.batches import Batch
from .._tokens.tokens import Tokens
from ..base import Decoding, Request
from .passes import Passes

if TYPE_CHECKING:
    import torch

SPARE = 8
"""So many tokens more than a stop text has bytes are looked at for it: characters may share tokens."""

HALVED = {"full_attention"}
"""Kinds of layers whose keys and values are kept a row a prompt, so that rows can be left out."""


@dataclass
class _Answer:
    """What a model has written for one prompt."""

    request: Request
    tokens: Tokens
    most: int
    """The most tokens that it may have."""

    ends: frozenset[int]
    dice: random.Random
    ids: list[int] = field(default_factory=list)
    done: bool = False

    def add(self, token: int) -> None:
        """Take the next token, and see whether it is the last."""
        self.ids.append(token)
        self.done = token in self.ends or len(self.ids) >= self.most or self._stopped()

    def _stopped(self) -> bool:
        stops = self.request.terms.decoding.stop
        if not stops:
            return False
        last = self._text(self.ids[-max(len(stop.encode()) for stop in stops) - SPARE :])
        return any(stop in last for stop in stops)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokens.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def text(self) -> str:
        """The text, without what ends it."""
        text = self._text(self.ids)
        found = [text.find(stop) for stop in self.request.terms.decoding.stop]
        return text[: min((place for place in found if place >= 0), default=None)]


class Writer:
    """A model that writes; its forward passes say with what batches are filled up, `seed` is the experiment's.

    The settings that came with the model are taken from it: `generate` would use them wherever it is not told.
    """

    def __init__(self, passes: Passes, seed: int) -> None:
        import transformers

        self.model = model = passes.model
        self.tokens = passes.tokens
        self.pad, self.start = passes.pad, passes.start
        self.seed = seed
        self._own: Any = model.generation_config
        model.generation_config = transformers.GenerationConfig()

    def write(self, batch: Batch, inputs: Mapping[str, torch.Tensor]) -> list[tuple[Request, Reply]]:
        """The texts that answer a batch of prompts of the same terms, without what they were made to begin with.

        Raises `BackendError` where the model's scores are not numbers.
        """
        answers = [self._begun(prompt.request) for prompt in batch]
        waiting, given = answers, dict(inputs)
        while waiting:
            run = _Run(waiting, batch[0].request.terms.decoding, leaves_early=self._leaves_early)
            output = self.model.generate(
                **given,
                generation_config=self._settings(waiting),
                logits_processor=[run.choose],
                stopping_criteria=[run.ended],
            )
            rest = [row for row, answer in enumerate(waiting) if not answer.done]
            waiting = [waiting[row] for row in rest]
            given = _continued(given, output, rest) if rest else {}
        return [
            (prompt.request, Reply(answer.text, prompt_tokens=len(prompt.ids), completion_tokens=len(answer.ids)))
            for prompt, answer in zip(batch, answers, strict=True)
        ]

    def _begun(self, request: Request) -> _Answer:
        ends = self._own.eos_token_id
        return _Answer(
            request,
            self.tokens,
            most=self.tokens.answer_tokens(request),
            ends=frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends]),
            dice=random.Random(int.from_bytes(request.key[:8]) ^ self.seed),  # noqa: S311
        )

    def _settings(self, answers: Sequence[_Answer]) -> Any:
        """How `generate` is to go on: as far as the longest answer may.

        The most probable token is what the model says: a penalty for repetitions that its settings ask for would change
        orders such as [1] > [10]. They are followed only with `generation_settings: model`.
        """
        import transformers

        follows = answers[0].request.terms.generation_settings == "model"
        settings = copy.deepcopy(self._own) if follows else transformers.GenerationConfig()
        settings.update(
            max_new_tokens=max(answer.most - len(answer.ids) for answer in answers),
            do_sample=False,  # chance has its part in what is chosen, see `_Run.choose`
            num_beams=1,
            pad_token_id=self.pad,
            eos_token_id=self._own.eos_token_id,
            decoder_start_token_id=self.start if self._encoder_decoder else None,
            return_dict_in_generate=True,
        )
        return settings

    @property
    def _encoder_decoder(self) -> bool:
        return self.tokens.architecture == "encoder_decoder"

    @cached_property
    def _leaves_early(self) -> bool:
        """Whether those that are not done can go on without those that are."""
        layers = set(getattr(self.model.config, "layer_types", None) or HALVED)
        return not self._encoder_decoder and layers == HALVED


@dataclass(frozen=True)
class _Run:
    """One run of `generate`, over the answers that are not done: what it asks at each token."""

    answers: Sequence[_Answer]
    decoding: Decoding
    leaves_early: bool
    """Whether to leave where no more than half of them are to go on."""

    def choose(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores of all tokens, a row an answer; where chance chooses, none but the chosen one's."""
        import torch

        if not self.answers[0].ids and not torch.isfinite(scores.amax(dim=-1)).all():
            raise BackendError(
                f"query {self.answers[0].request.query.id}: the model's scores are not numbers; use dtype: bfloat16 or "
                "float32"
            )
        if not self.decoding.temperature:
            return scores
        chances = [answer.dice.random() for answer in self.answers]
        chosen = drawn(scores / self.decoding.temperature, self.decoding.top_p, chances)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen.unsqueeze(1), 0.0)

    def ended(self, ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Which answers are done; all of them, to leave `generate`, where few are to go on."""
        import torch

        for answer, token in zip(self.answers, ids[:, -1].tolist(), strict=True):
            if not answer.done:
                answer.add(token)
        done = [answer.done for answer in self.answers]
        leave = self.leaves_early and 2 * sum(done) >= len(done)
        return torch.tensor([leave or each for each in done], device=ids.device)


def drawn(scores: torch.Tensor, top_p: float, chances: Sequence[float]) -> torch.Tensor:
    """The token that chance (from 0 to 1) draws in each row, of the likeliest whose probabilities sum to `top_p`."""
    import torch

    probabilities = torch.softmax(scores.double(), dim=-1)
    order = None
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.where(before < top_p, 0.0)
    sums = probabilities.cumsum(dim=-1)
    wanted = torch.tensor(chances, dtype=sums.dtype, device=sums.device).unsqueeze(1) * sums[:, -1:]
    places = (sums <= wanted).sum(dim=-1, keepdim=True)
    # Rounding may leave the sum below the wanted share of itself; the last token that has any is meant then.
    places = places.minimum((sums < sums[:, -1:]).sum(dim=-1, keepdim=True))
    return (places if order is None else order.gather(1, places)).squeeze(1)


def _continued(inputs: Mapping[str, Any], output: Any, rows: Sequence[int]) -> dict[str, Any]:
    """What `generate` is given to go on with some of its rows."""
    import torch

    chosen = torch.tensor(rows, device=output.sequences.device)
    output.past_key_values.batch_select_indices(chosen)
    mask = inputs["attention_mask"][chosen]
    written = output.sequences.shape[1] - mask.shape[1]
    return {
        "input_ids": output.sequences[chosen],
        "attention_mask": torch.nn.functional.pad(mask, (0, written), value=1),
        "past_key_values": output.past_key_values,
    }
