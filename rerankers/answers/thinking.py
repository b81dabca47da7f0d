"""Thoughts of reasoning models: the answer is what follows them."""

import re
import string

THOUGHTS = (
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command A
    *(  # <think>, <seed:think>, <thought>, …
        (rf"<\|?{name}\|?\s?>", rf"<\|?/{name}\|?\s?>")
        for name in (r"(?:\w{1,9}[:_])?think(?:ing)?", "thoughts?", "reason(?:ing)?", "reflection", "analysis", "cot")
    ),
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    (r"<unused94>", r"<unused95>"),  # MedGemma
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
    # gpt-oss (Harmony): every channel but the last is thought
    (r"<\|channel\|>\s*+(?!final)", r"<\|channel\|>\s*+final(?:\s*+<\|constrain\|>\w*+)?(?:\s*+<\|message\|>)?"),
)
"""The marks that begin and end a thought, in any case; a thought ends with the mark that belongs to its beginning."""

CHANNEL = r"\A[\s*]*+(?:assistant)?(?:analysis|commentary)(?=[A-Za-z]|\s*+[^a-z\s:=.,;_-]|[ ]*+\n|\Z)"
IN_WORDS = (
    (CHANNEL, "<|channel|>analysis"),
    (r"assistant\n{0,2}final", "<|channel|>final"),
    (r"\A\s*+Here(?: is|'s) my thought process:", "<think>"),
    (r"Here(?: is|'s) my response:", "</think>"),
)
"""Words that are marks: without special tokens, Harmony leaves "analysisWe …assistantfinal[2]"; and Granite's."""

ANSWERS = (
    r"<answer>|<response>|<\|begin_of_solution\|>|<\|START_RESPONSE\|>",
    r"</answer>|</response>|<\|end_of_solution\|>|<\|END_RESPONSE\|>|<\|(?:end|return|call)\|>",
)
"""The marks that begin and end an answer."""

MARK = r"(?i)(?=[<\[◁][/|]{0,2}[a-z])(?:"
TAG = re.compile(MARK + "|".join(f"({mark})" for marks in THOUGHTS for mark in marks) + ")")
ANSWER_TAG = re.compile(MARK + "|".join(f"({mark})" for mark in ANSWERS) + ")")

SPACES = string.whitespace + "\0\x85\xa0\u200b\u2009\u202f\u2028\u2029\u3000\ufeff"
ALIKE = {0xFEE0 + code: code for code in range(0x21, 0x7F)} | str.maketrans("【】〔〕、≥⩾≧≫≻≽⪰→⇒", "[][],>>>>>>>>>")  # noqa: RUF001
"""Signs that are read as others: fullwidth letters, digits and brackets as the plain ones."""

DECORATION = re.compile(r"\\(?:boxed|text|mathrm)(?=\{)|```\w*\n")
LONGEST_MARK = 40


def opened_thought(prompt: str) -> str:
    """Return the mark with which a prompt ends that begins a thought, as chat templates write it, or ""."""
    end = prompt[-LONGEST_MARK:].rstrip()
    mark = next((mark for mark in TAG.finditer(end) if mark.end() == len(end)), None)
    return mark[0] if mark and (mark.lastindex or 0) % 2 else ""


def after_thinking(text: str) -> str | None:
    """Return what follows a thought, or what the last <answer> there holds, or None if the thought has no end.

    A thought may lack its opening mark, does not nest, and ends with the first closing mark; where nothing follows the
    last one, what stands before it counts. Of answers the last that is closed counts, else the last that was begun
    (Rank-R1, arXiv:2503.06034, and ReasonRank, arXiv:2508.07050, write <think>…</think><answer>…</answer>).
    """
    for words, meant in IN_WORDS:
        text = re.sub(words, meant, text)
    outside: list[str] = []
    start, thought = 0, None  # where the present stretch outside thoughts began, or the kind of the present thought
    for mark in TAG.finditer(text):
        kind, closes = divmod((mark.lastindex or 0) - 1, 2)
        if closes and thought in {None, kind}:
            if thought is None:  # its opening mark is not in the text
                outside = []
            start, thought = mark.end(), None
        elif thought is None:
            outside.append(text[start : mark.start()])
            thought = kind
    if thought is not None:
        return None
    outside.append(text[start:])
    answer = next((piece for piece in reversed(outside) if piece.strip()), "")
    begun: int | None = None
    closed: str | None = None
    for mark in ANSWER_TAG.finditer(answer):
        if mark.lastindex == 1:
            begun = mark.end()
        elif begun is not None or closed is None:
            closed, begun = answer[begun or 0 : mark.start()], None
    return answer[begun or 0 :] if closed is None else closed


def plain_answer(text: str) -> tuple[str, str]:
    r"""Return what follows any thought without Markdown's fences and LaTeX's \boxed{…}, or "" and why it is empty."""
    answer = after_thinking(text.replace("&lt;", "<").replace("&gt;", ">"))
    if answer is None:
        return "", "unfinished_thought"
    return DECORATION.sub("", answer.translate(ALIKE)).strip(SPACES), "empty"
