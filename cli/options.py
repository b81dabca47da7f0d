"""Options that several commands take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..rerankers.errors import InputError
from . import completion

if TYPE_CHECKING:
    from ..pipeline.launchers import Launch


def config(about: str) -> Any:
    """Return the option that names a config."""
    return typer.Option("--config", help=about, autocompletion=completion.configs)


Config = Annotated[str, config("A YAML file, or a shipped config: quickstart.yaml.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key: ranker.k=20; `list keys` has all. Repeatable."),
]
Measures = Annotated[list[str] | None, typer.Option("--measure", help="Any measure of ir-measures. Repeatable.")]
Qrels = Annotated[Path | None, typer.Option("--qrels", help="Judgements in a TREC or BEIR file.")]
Judged = Annotated[str | None, typer.Option("--dataset", help="Judgements of a dataset.")]
Baseline = Annotated[
    str | None, typer.Option("--baseline", metavar="RUN", help="Compare all with this one; else all pairs.")
]
Common = Annotated[bool, typer.Option("--common", help="Use only the queries that all runs have.")]
QueryLimit = Annotated[int | None, typer.Option("--queries", metavar="N", help="The first N queries; all by default.")]


def folder(text: str) -> Path:
    """Return the folder that --output names. Raises `InputError` if it is empty."""
    if not text.strip():
        raise InputError("--output is empty: name a folder, or leave it out for runs/NAME-FINGERPRINT")
    return Path(text)


Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="DIR", parser=folder, help="The run's folder; runs/NAME-FINGERPRINT by default."),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="AXIS=V1,V2", help="The cells with these values; * matches anything. Repeatable."),
]
Launcher = Annotated[
    str | None,
    typer.Option("--launcher", metavar="NAME", help="Run processes by local, ray or slurm: here, or on a cluster."),
]
Resources = Annotated[
    list[str] | None,
    typer.Option("--resources", metavar="KEY=VALUE", help="Tell Ray or submitit: num_gpus=1, slurm_partition=gpu."),
]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="Ray's cluster; RAY_ADDRESS, or one made here.")]
Jobs = Annotated[int | None, typer.Option("--jobs", metavar="N", min=1, help="Run so many processes side by side.")]


def launch(
    launcher: str | None, jobs: int | None, resources: list[str] | None, ray_address: str | None
) -> "Launch | None":
    """Return what is to be launched how, or None without --launcher. Raises `InputError` for its options alone."""
    from ..pipeline.configs import yaml_files
    from ..pipeline.launchers import Launch

    if launcher is None:
        if resources or ray_address:
            raise InputError("--resources and --ray-address go with --launcher")
        return None
    told = [yaml_files.setting(text, "--resources").values for text in resources or ()]
    return Launch(launcher, jobs, {key: value for one in told for key, value in one.items()}, ray_address)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no notes.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder.")]
