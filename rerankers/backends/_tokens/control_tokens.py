"""Control tokens in texts that a server tokenises: which ones it has is unknown, so all common forms are broken up."""

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
    """Return the text with a blank after the first character of each control token."""
    return CONTROL.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)
