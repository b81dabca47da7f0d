"""Cross-encoders as sentence-transformers saves them since 5.4: a chain of modules that the folder names itself.

`modules.json` names a Transformer and, after it, LogitScore (the logit of a token at the last position, or that of one
less that of another) or Pooling with layers, of which the last one gives the score. Where the Transformer takes
messages, a pair is rendered by the folder's chat template, for the roles system (the instruction), query and document.
The folder's activation is left out: it keeps the order.
"""

from .._tokens.pairs import PairForm
from .loading import Source, read_json


def chain_of(source: Source) -> PairForm | None:
    """Return how a model's folder has pairs read and scored, or None if it has no chain that gives scores."""
    *_, last = read_json(source, "modules.json") or [{"type": "", "path": ""}]
    about = read_json(source, f"{last['path']}/config.json") if last["path"] else {}
    by_logits = last["type"].rpartition(".")[2] == "LogitScore"
    if not by_logits and about.get("module_output_name") != "scores":
        return None
    reading = read_json(source, "sentence_bert_config.json")
    saved = read_json(source, "config_sentence_transformers.json")
    more = reading.get("processing_kwargs", {})
    instruction = saved.get("prompts", {}).get(saved.get("default_prompt_name"), "")
    return PairForm(
        instruction=instruction if "message" in reading.get("modality_config", {}) else None,
        variables={"add_generation_prompt": False} | more.get("chat_template", {}),
        longest=more.get("text", {}).get("max_length") or reading.get("max_seq_length"),
        tokens=(about["true_token_id"], about.get("false_token_id")) if by_logits else None,
    )
