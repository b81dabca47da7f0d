"""PAGC: documents sorted by the mean of GCCP's score and those of other pointwise methods.

Long et al., SIGIR 2025, as in `gccp`. Each component's scores are brought to the range from 0 to 1 per query, ½ each
where all are equal, and averaged. Components beside GCCP: `rg_yn`, the probability of "yes" over "yes" and "no"
(default: PAGC, 2 n prompts); `rg_s`, P("4") over the whole vocabulary on a scale of 0 to 4; `qg`, the query's
log-likelihood. `[qg, rg_yn]` is the paper's PAGC-QYG and `[qg, rg_s]` its PAGC-QSG, as utshabkg/GCCP-reproduce
reports. One round. All documents are ranked; equal scores keep first-stage order.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ...types import Answer, Ask, AskKind, Candidates, PromptName, Steps, by_score, minmax
from . import Anchored, contrasts, peak_probability

Component = Literal["rg_yn", "rg_s", "qg"]


def _once_each(names: tuple[Component, ...]) -> tuple[Component, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"components {', '.join(names)}: name each one once")
    return names


class Params(Anchored):
    """Parameters of PAGC."""

    components: Annotated[tuple[Component, ...], AfterValidator(_once_each)] = Field(
        ("rg_yn",), min_length=1, strict=False, description="whose scores are averaged with GCCP's"
    )
    rg_yn_prompt: PromptName = Field("rg_yn", description="the prompt of component rg_yn")
    rg_s_prompt: PromptName = Field("rg_s", description="the prompt of component rg_s")
    qg_prompt: PromptName = Field("qlm", description="the prompt of component qg")

    @property
    def templates(self) -> Mapping[str, AskKind]:
        """Return the components' prompts."""
        return {getattr(self, f"{name}_prompt"): _kind(name) for name in self.components}


def pagc(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by the mean of their components' scores."""
    n = len(candidates.docs)
    asks = yield from contrasts(candidates, params)
    for name in params.components:
        asks += [Ask(_kind(name), (doc,), template=getattr(params, f"{name}_prompt")) for doc in candidates.ids]
    answers = yield asks
    scores = [_score(name, answers[i * n : (i + 1) * n]) for i, name in enumerate(("gccp", *params.components))]
    return by_score(candidates, [fmean(row) for row in zip(*map(minmax, scores), strict=True)])


def _kind(name: Component) -> AskKind:
    return "likelihood" if name == "qg" else "score"


def _score(name: str, answers: list[Answer]) -> list[float]:
    return [peak_probability(a) if name in ("gccp", "rg_s") else a.scores[0] for a in answers]
