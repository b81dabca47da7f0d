"""The manifest in the words of ir_metadata, schema 0.1: platform, research goal, implementation, method, data.

Source: Breuer, Keller, Schaer, "ir_metadata: An Extensible Metadata Schema for IR Experiments", SIGIR 2022, and
https://www.ir-metadata.org. Only what is known is filled in: nothing is said of an actor or of a publication.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from ...rerankers.catalog import backend
from .manifest import models
from .manifest import stages as reranked

GIB = 2**30

BM25 = "org.apache.lucene.search.similarities.BM25Similarity"
"""The class that the first stage scores with."""


def annotation(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The annotation of a run, from its manifest."""
    config = manifest["config"]
    return {
        "schema-version": 0.1,
        "run-version": 1.0,
        "tag": manifest["name"],
        "platform": _platform(manifest["environment"], toolkit=bool(_bm25(config))),
        "research goal": {"evaluation": {"reported measures": list(config["evaluate"]["measures"])}},
        "implementation": _implementation(manifest),
        "method": _method(manifest),
        "data": _data(manifest),
    }


def _platform(environment: Mapping[str, Any], *, toolkit: bool) -> dict[str, Any]:
    packages = environment["packages"]
    libraries = [f"{name}=={version}" for name, version in packages.items()]
    software: dict[str, Any] = {"libraries": {"python": [f"python=={environment['python']}", *libraries]}}
    if toolkit and "pyserini" in packages:
        software["retrieval toolkit"] = [f"pyserini=={packages['pyserini']}"]
    return {
        "hardware": _hardware(environment["hardware"]),
        "operating system": _known({"kernel": f"{platform.system()} {platform.release()}", "distribution": _system()}),
        "software": software,
    }


def _hardware(machine: Mapping[str, Any]) -> dict[str, Any]:
    cpu = {
        "model": machine["cpu"],
        "architecture": machine["architecture"],
        "operation mode": platform.architecture()[0].replace("bit", "-bit"),
        "number of cores": machine["cores"],
    }
    found: dict[str, Any] = {"cpu": _known(cpu)}
    gpus = machine["gpus"]
    if gpus:
        found["gpu"] = {"model": gpus[0]["name"], "memory": gpus[0]["memory"], "number of devices": len(gpus)}
    if machine["memory"]:
        found["ram"] = f"{machine['memory'] / GIB:.0f} GB"
    return found


def _system() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:  # not Linux
        return None


def _implementation(manifest: Mapping[str, Any]) -> dict[str, Any]:
    checkout = manifest["environment"]["git"]
    command = "rerank" if reranked(manifest["experiment"]) else "retrieve"
    source: dict[str, Any] = {"lang": ["Python"]}
    if checkout:
        source |= {"commit": checkout["commit"], "uncommitted changes": checkout["dirty"]}
    return {"executable": {"cmd": f"r2llm {command} --config config.yaml"}, "source": source}


def _method(manifest: Mapping[str, Any]) -> dict[str, Any]:
    config = manifest["config"]
    bm25 = _bm25(config)
    first: dict[str, Any] = {"name": "given run"}
    if bm25:
        first = {"name": "bm25", "method": BM25, "k1": bm25["k1"], "b": bm25["b"]}
    stages = [first | {"depth": config["first_stage"]["depth"]}]
    for number in range(len(reranked(manifest["experiment"]))):
        stages.append(_reranker(manifest, number) | {"reranks": stages[-1]["name"]})
    if fuse := manifest["experiment"].get("fuse"):
        other = first["name"] if fuse["with"] == "first_stage" else "given run"
        stages.append({"name": fuse["method"], "weight": fuse.get("alpha"), "fuses": [other, stages[-1]["name"]]})
        stages[-1] = _known(stages[-1])
    # Of a run that was given we do not know whether a person had a hand in it.
    known = {"automatic": True} if bm25 else {}
    return {**known, "score ties": "none: scores strictly decrease", "retrieval": stages}


def _reranker(manifest: Mapping[str, Any], stage: int) -> dict[str, Any]:
    identity, model = reranked(manifest["experiment"])[stage], models(manifest)[stage]
    ranker = identity["ranker"]
    prompts = {prompt["digest"]: name for name, prompt in manifest["prompts"].items()}
    found = {
        "name": ranker["method"],
        "method": f"r2llm.rerankers.methods.{ranker['method']}",
        **ranker["params"],
        "scoring": ranker["scoring"],
        "prompt": prompts.get(ranker["prompts"][0]),
        "depth": identity.get("depth"),
        "model": model.get("name") or model["backend"],
        "revision": model.get("revision"),
        "dtype": model.get("dtype"),
    }
    return _known(found) | ({"simulated": True} if backend(identity["model"]["backend"]).Options.simulated else {})


def _data(manifest: Mapping[str, Any]) -> dict[str, Any]:
    dataset = manifest["config"]["dataset"]
    name = dataset if isinstance(dataset, str) else next(iter(dataset.values()))
    collection = {"name": name}
    if "ir_datasets" in _first_stage(manifest)["dataset"]:
        collection["ir_datasets"] = f"https://ir-datasets.com/{name.partition('/')[0]}.html#{name}"
    hashes = {f"{kind} sha256": digest for kind, digest in manifest["data"].items() if digest}
    return {"test collection": collection | hashes}


def _first_stage(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The identity of the first stage, which is the whole experiment where nothing was reranked."""
    found: Mapping[str, Any] = manifest["experiment"].get("first_stage", manifest["experiment"])
    return found


def _bm25(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = config["first_stage"].get("bm25")
    return found


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
