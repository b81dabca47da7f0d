"""The manifest in the words of ir_metadata, schema 0.1: platform, research goal, implementation, method, data.

Source: Breuer, Keller, Schaer, "ir_metadata: An Extensible Metadata Schema for IR Experiments", SIGIR 2022, and
https://www.ir-metadata.org. Only what is known is filled in: nothing is said of an actor or of a publication.
"""

import platform
from collections.abc import Mapping
from typing import Any

from ...rerankers.catalog import backend
from .manifest import Environment, Manifest

GIB = 2**30

BM25 = "org.apache.lucene.search.similarities.BM25Similarity"
"""The class that scores in the first stage."""


def annotation(run: Manifest) -> dict[str, Any]:
    """Return the annotation of a run."""
    dataset = run.config.dataset
    name = dataset if isinstance(dataset, str) else next(iter(dataset.values()))
    page = f"https://ir-datasets.com/{name.partition('/')[0]}.html#{name}"
    collection = {"name": name} | ({"ir_datasets": page} if "ir_datasets" in run.first_stage["dataset"] else {})
    collection |= {f"{kind} sha256": digest for kind, digest in run.data.items() if digest}
    source: dict[str, Any] = {"lang": ["Python"]}
    if git := run.environment.git:
        source |= {"commit": git["commit"], "uncommitted changes": git["dirty"]}
    command = "rerank" if run.stages else "retrieve"
    return {
        "schema-version": 0.1,
        "run-version": 1.0,
        "tag": run.name,
        "platform": _platform(run.environment, toolkit="bm25" in run.config.first_stage),
        "research goal": {"evaluation": {"reported measures": list(run.config.evaluate["measures"])}},
        "implementation": {"executable": {"cmd": f"r2llm {command} --config config.yaml"}, "source": source},
        "method": _method(run),
        "data": {"test collection": collection},
    }


def _platform(environment: Environment, *, toolkit: bool) -> dict[str, Any]:
    libraries = [f"{name}=={version}" for name, version in environment.packages.items()]
    software: dict[str, Any] = {"libraries": {"python": [f"python=={environment.python}", *libraries]}}
    if toolkit and "pyserini" in environment.packages:
        software["retrieval toolkit"] = [f"pyserini=={environment.packages['pyserini']}"]
    machine = environment.hardware
    cpu = {
        "model": machine.cpu,
        "architecture": machine.architecture,
        "operation mode": platform.architecture()[0].replace("bit", "-bit"),
        "number of cores": machine.cores,
    }
    hardware: dict[str, Any] = {"cpu": _known(cpu)}
    if gpus := machine.gpus:
        hardware["gpu"] = {"model": gpus[0]["name"], "memory": gpus[0]["memory"], "number of devices": len(gpus)}
    if machine.memory:
        hardware["ram"] = f"{machine.memory / GIB:.0f} GB"
    system = {"kernel": f"{platform.system()} {platform.release()}", "distribution": _distribution()}
    return {"hardware": hardware, "operating system": _known(system), "software": software}


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:  # not Linux
        return None


def _method(run: Manifest) -> dict[str, Any]:
    bm25 = run.config.first_stage.get("bm25")
    first: dict[str, Any] = {"name": "given run"}
    if bm25:
        first = {"name": "bm25", "method": BM25, "k1": bm25["k1"], "b": bm25["b"]}
    stages = [first | {"depth": run.config.first_stage["depth"]}]
    for number in range(len(run.stages)):
        stages.append(_reranker(run, number) | {"reranks": stages[-1]["name"]})
    if fuse := run.experiment.fuse:
        other = first["name"] if fuse["with"] == "first_stage" else "given run"
        fuses = [other, stages[-1]["name"]]
        stages.append(_known({"name": fuse["method"], "weight": fuse.get("alpha"), "fuses": fuses}))
    # It is not known whether a person had a hand in a given run.
    known = {"automatic": True} if bm25 else {}
    return {**known, "score ties": "none: scores strictly decrease", "retrieval": stages}


def _reranker(run: Manifest, number: int) -> dict[str, Any]:
    stage, model = run.stages[number], run.stage_models[number]
    prompts = {prompt.digest: name for name, prompt in run.prompts.items()}
    described = {
        "name": stage.ranker.method,
        "method": f"r2llm.rerankers.methods.{stage.ranker.method}",
        **stage.ranker.params,
        "scoring": stage.ranker.scoring,
        "prompt": prompts.get(stage.ranker.prompts[0]),
        "depth": stage.depth,
        "model": model.get("name") or model["backend"],
        "revision": model.get("revision"),
        "dtype": model.get("dtype"),
    }
    simulated = backend(stage.model["backend"]).Options.simulated
    return _known(described) | ({"simulated": True} if simulated else {})


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
