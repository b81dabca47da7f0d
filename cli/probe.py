"""`r2llm probe`: how a ranker is fooled by what is written into passages."""

from typing import Annotated, Any

import typer

from . import console, options


def probe(
    config: options.Config,
    probes: Annotated[str, typer.Option(metavar="NAME,NAME", help="Only these: doh,dch; all by default.")] = "",
    sets: Annotated[int, typer.Option(min=0, help="How many sets of four documents are attacked.")] = 256,
    rankings: Annotated[
        bool, typer.Option("--rankings/--no-rankings", help="Attack whole rankings too: two a probe.")
    ] = True,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write instructions, claims, labels or nothing at all into passages, and see how the ranker takes it.

    A placebo of the same length says what any addition does. Run again after an interruption, it continues.
    """
    from ..pipeline.configs import load as configs
    from ..pipeline.studies import probe as study

    listener = console.listener(quiet)
    loaded = configs.load_noting(config, settings or (), queries, listener)
    names = [name.strip() for name in probes.split(",") if name.strip()]
    found = study.probe(loaded, names, sets, output, listener, rankings=rankings)
    if as_json:
        console.as_json(found)
        return
    console.line(found["name"] + (" (SIMULATED answers: not a model's weakness)" if found["simulated"] else ""))
    if found["sets"]:
        title = f"success: {found['sets']} sets of four, {found['unread_sets']} left out with an unread clean answer"
        header = ["probe", "rate", "95 %", "less placebo", "unread"]
        _table(title, header, found, "success", ("rate", "interval", "less_placebo", "unread"))
    if found["victims"]:
        damage = ("attacked", "drop", "interval")
        header = ["probe", f"{found['measure']} attacked", "drop", "95 %"]
        _table("damage: the probe in every candidate judged 0", header, found, "damage", damage)
        header = ["probe", "ranks climbed", "in the top 10", "first"]
        title = f"victim: the probe in one candidate judged 0, of {len(found['victims'])} queries"
        _table(title, header, found, "victim", ("climb", "in_top_10", "first"))


def _table(title: str, header: list[str], found: dict[str, Any], part: str, names: tuple[str, ...]) -> None:
    rows = [[probe, *(_text(row[part][name]) for name in names)] for probe, row in found["probes"].items()]
    console.table(title, header, rows)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.4f} to {value[1]:.4f}"
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
