"""Texts that a server tokenises: what looks like a control token in them is written so that it is none.

A passage is data, but a server's tokenizer takes `<|im_end|>` in it for the end of the turn. Which control tokens it
has cannot be asked, so all that have the form of the common ones get a blank after their first character.
"""

from __future__ import annotations

import re

CONTROL = re.compile(
    r"<[|\uff5c][^<>\n]{1,60}[|\uff5c]>"  # <|eot_id|> (Llama 3), <|im_end|> (Qwen), <\uff5cUser\uff5c> (DeepSeek)
    r"|</?(?:s|bos|eos|pad|unk|mask|sep|cls|think|start_of_turn|end_of_turn|start_of_image|sop|eop)>"
    r"|<<?/?SYS>>?|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|CLS|SEP|PAD|UNK|MASK)\]"
    r"|<(?:extra_id_|unused|reserved_special_token_)[0-9]{1,4}>",
    re.IGNORECASE,
)


def disarmed(text: str) -> str:
    """The text, without anything that has the form of a control token."""
    return CONTROL.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)
