"""`xdpecmp verify`."""

from __future__ import annotations

import random
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence

import click
from rich.console import Console
from rich.progress import Progress

from ..instance.instance import Instance
from ..model.values import Link, Prefix
from ..netlink import Kernel
from ..observe.columns import Columns
from ..observe.devices import our_links
from ..observe.explain import Explainer
from ..observe.scratch import Trial, try_packets
from ..observe.verify import Result, Verifier, entrances, multipath_routes
from . import asjson, output, packet
from .common import NumberType, json_option
from .routes import PREFIX

_MOST_SHOWN = 3


@click.command("verify")
@click.argument("prefix", type=PREFIX, required=False)
@click.option(
    "--flows",
    type=NumberType(1, 1_000_000),
    default=100,
    show_default=True,
    help="Random flows on each route.",
)
@click.option(
    "--seed", type=NumberType(0, (1 << 64) - 1), help="Draw the same flows as an earlier run."
)
@json_option
@click.pass_context
def command(
    context: click.Context, prefix: Prefix | None, flows: int, seed: int | None, as_json: bool
) -> None:
    """Check that the data path chooses as Linux does, with random flows on each multipath route.

    Compares the attached program, the reference model in Python, and the kernel's own answer.
    Nothing is sent, and nothing is counted. If Linux's answer is another one it is asked again on
    each CPU, and real packets are sent in a scratch namespace. Of routes that share their next hops
    a few are tried, unless one is named. Exit status 1 if there is a difference, or nothing could
    be compared.
    """
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    rng = random.Random(seed)
    instance = Instance()
    with Kernel() as kernel, instance.open_maps() as maps:
        links = kernel.links()
        attached = our_links(links.values(), instance.program_ids())
        routes = multipath_routes(maps, rng, prefix)
        with (
            Explainer(instance, maps) as explainer,
            Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
        ):
            verifier = Verifier(explainer, maps, kernel, entrances(maps, links, attached), rng)
            task = progress.add_task("flows", total=len(routes) * flows)
            results = list(verifier.run(routes, flows, lambda n: progress.advance(task, n)))
            trials = _trials(results)
    if as_json:
        output.print_json(
            {
                "seed": seed,
                "routes": [asjson.verified(result) for result in results],
                "differences": [
                    {"prefix": str(result.prefix)} | asjson.explained(each, links)
                    for result in results
                    for each in result.differences
                ],
                "wrong_cpus": {str(cpu): said for cpu, said in verifier.judge.wrong.items()},
                "real_packets": {str(f): each and each._asdict() for f, each in trials.items()},
            }
        )
    else:
        _print(results, links, seed)
        for line in _judgement(verifier.judge.complaint(), trials):
            click.echo(f"\n{line}")
    differ = any(result.differed for result in results)
    compared = any(result.agreed or result.without_linux for result in results)
    context.exit(1 if differ or (results and not compared) else 0)


def _trials(results: list[Result]) -> dict[int, Trial | None]:
    """By family that differs: what this kernel does with real packets."""
    found: dict[int, Trial | None] = {}
    for result in results:
        for each in result.differences[:1]:
            family = each.decision.family
            if family and family not in found and not each.decision.settings.own_seed:
                found[family] = try_packets(family, each.decision.settings, ())
    return found


def _judgement(complaint: str, trials: dict[int, Trial | None]) -> Iterator[str]:
    if complaint:
        yield (
            f"{complaint[0].upper()}{complaint[1:]}, and rightly on another. It forwards right: "
            "there is nothing to do."
        )
    for family, trial in trials.items():
        if trial is None:
            continue
        said = f"IPv{family}: of {trial.flows} real packets in a namespace apart this kernel sent "
        if trial.agreed == trial.flows:
            yield f"{said}all where xdpecmp computes: it is not the hash that differs."
        else:
            yield (
                f"{said}{trial.agreed} where xdpecmp computes: it hashes otherwise. "
                "Leave it to Linux: xdpecmp detach --all"
            )


def _counts(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{number:,} ({why})" for why, number in reasons.items())


def _print(results: Sequence[Result], links: Mapping[int, Link], seed: int) -> None:
    if not results:
        output.note("no multipath route: there is no choice to compare")
        return
    headings = {"prefix": "PREFIX", "agree": "AGREE", "differ": "DIFFER"}
    if any(result.without_linux for result in results):
        headings["without_linux"] = "PYTHON ONLY"
    if any(result.no_choice for result in results):
        headings["no_choice"] = "NO CHOICE"
    rows = [
        {
            "prefix": str(result.prefix),
            "agree": result.agreed,
            "differ": result.differed,
            "without_linux": _counts(result.without_linux),
            "no_choice": _counts(result.no_choice),
        }
        for result in results
    ]
    output.print_table(rows, Columns(headings, lead=True))
    differences = [each for result in results for each in result.differences]
    if differences:
        click.echo(f"\nThe first differences (again: --seed {seed}):")
    for each in differences[:_MOST_SHOWN]:
        click.echo()
        packet.print_lines(each, links)
