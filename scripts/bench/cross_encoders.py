"""How fast a cross-encoder scores pairs, against sentence-transformers' `CrossEncoder.predict`, in turn on each query.

    python scripts/bench/cross_encoders.py --model FOLDER --config C [--queries 5] [--dtype float32]

Both have the same weights, threads or GPU, number format and longest pair; sentence-transformers makes its own batches.
The first query is scored once before, as neither's first is measured.
"""

from __future__ import annotations

import time

import torch
from plain import candidates, parser_of, ranked
from r2llm.rerankers.backends import transformers
from r2llm.rerankers.backends.base import Setting
from sentence_transformers import CrossEncoder


def main() -> None:
    """Print the seconds of both, their ratio, and on how many queries the top 10 are equal."""
    parser = parser_of(__doc__, 5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    queries = candidates(args.config, args.set, args.queries)
    options = transformers.Options(name=args.model, dtype=args.dtype, device=args.device)
    ours = transformers.Transformers(options, Setting().seed)
    settings = {"dtype": getattr(torch, args.dtype)}
    theirs = CrossEncoder(args.model, device=args.device, model_kwargs=settings, activation_fn=torch.nn.Identity())
    theirs.max_length = ours.tokens.tokenizer.model_max_length
    ranker = {"method": "pointwise.cross_encoder", "passage_tokens": None, "query_tokens": None}
    our_seconds, their_seconds, same = 0.0, 0.0, 0
    for turn, query in enumerate([queries[0], *queries]):
        begun = time.perf_counter()
        scores = theirs.predict([(query.query.text, doc.text) for doc in query.docs]).tolist()
        their_time, begun = time.perf_counter() - begun, time.perf_counter()
        _, _, rankings = ranked(ranker, ours, [query])
        our_time = time.perf_counter() - begun
        if turn:
            their_seconds, our_seconds = their_seconds + their_time, our_seconds + our_time
            ordered = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
            same += list(rankings[query.query.id][:10]) == [query.docs[i].id for i in ordered[:10]]
    print(
        f"{args.model}, {args.dtype}, {len(queries)} queries of {len(queries[0].docs)}: predict {their_seconds:.1f} s, "
        f"r2llm {our_seconds:.1f} s, {their_seconds / our_seconds:.2f} x; top 10 equal {same}/{len(queries)}"
    )


if __name__ == "__main__":
    main()
