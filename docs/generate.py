"""Pages that are made from the code: docs/reasons.md and the man page (make docs).

The pages are kept in the repository, so that they can be read without running anything. A test
compares them with what this module makes (tests/unit/test_docs.py).
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from xdpecmp.agent.journal import LIMIT
from xdpecmp.cli import COMMANDS, cli
from xdpecmp.places import BPFFS, RUN
from xdpecmp.program.abi import ICMP_ERROR_TEXT, REASON_ADVICE, REASON_TEXT
from xdpecmp.program.image import CACHE

ROOT = Path(__file__).parents[1]

# --- docs/reasons.md -----------------------------------------------------------------------------

_REASONS_HEAD = """\
# Reasons

Made from bpf/reasons.def by `make docs`: do not edit.

Every packet that reaches an attached interface is counted under one reason. All but `FORWARDED`
pass the packet to Linux, which treats it as if xdpecmp were not there. `xdpecmp stats` shows the
counters, `xdpecmp explain` the reason for one packet, `xdpecmp status` what passes as a whole, and
`xdpecmp doctor` what would. IFACE is a device that packets come in by, DEV one that they leave by.

| reason | what it means | what to do |
|---|---|---|
"""

_ICMP_ERRORS_HEAD = """
## ICMP errors

Errors that were forwarded are counted by type, too.

| counter | counts |
|---|---|
"""


def reasons_page() -> str:
    """docs/reasons.md: each reason, what it means, what to do about it."""
    rows = [
        f"| `{name}` | {text} | {_linked(REASON_ADVICE[name])} |\n"
        for name, text in REASON_TEXT.items()
    ]
    errors = [f"| `{name}` | {text} |\n" for name, text in ICMP_ERROR_TEXT.items()]
    return _REASONS_HEAD + "".join(rows) + _ICMP_ERRORS_HEAD + "".join(errors)


def _linked(text: str) -> str:
    """With links to the pages that it names."""
    return re.sub(r"\b(\w+\.md)\b", r"[\1](\1)", text)


# --- packaging/xdpecmp.8 -------------------------------------------------------------------------

_DESCRIPTION = """
xdpecmp forwards IPv4 and IPv6 packets in XDP, at the NIC's driver, to the next hop that Linux
itself would have chosen: from Linux's own routes, by the same multipath hash. ICMP errors follow
the flow that they are about. Anything it cannot safely forward passes to Linux, and is counted by
reason.

An agent in the background follows the kernel's routes, neighbours and links. Forwarding in XDP
depends on a lease of three seconds that the agent renews. When it runs out everything passes to
Linux, and no flow moves.
"""

_EXIT_STATUS = {
    "0": "What was asked for is done.",
    "1": "What was asked for is not so: `explain` and `verify` found a difference, `verify` could "
    "compare nothing, `doctor` found a problem, `demo` a figure that is not as it should be.",
    "2": "A usage or environment error. One line on standard error says what, and what to do.",
    "130": "Interrupted by Ctrl-C.",
}

_ENVIRONMENT = {
    "XDPECMP_DEBUG": "If set, errors show a traceback.",
    "NO_COLOR": "If set, output to a terminal has no colours.",
}

_FILES = {
    f"{BPFFS}/xdpecmp/NSID/": "Pinned maps and programs. NSID is the inode number of the network "
    "namespace (`lsns -t net`).",
    f"{RUN}/NSID/agent.log": f"The agent's log; at {LIMIT >> 10} KiB it becomes agent.log.1.",
    f"{RUN}/NSID/": "The options of `attach`, and what the agent needs after a restart.",
    f"{CACHE}/": "Compiled programs. May be deleted any time.",
}

_EXAMPLES = {
    "xdpecmp attach eth1 eth2": "Forward what these two receive.",
    "xdpecmp -n blue status": "See how it is doing in the network namespace blue.",
    "xdpecmp weights 192.0.2.80/32 10.0.1.2=5 --dry-run": "See what share of the flows another "
    "weight would move.",
    "xdpecmp explain 192.0.2.80 from 198.51.100.7 iif eth1 ipproto tcp sport 4711 dport 80": "See "
    "where a packet goes, and why.",
    "xdpecmp detach --all": "Leave everything to Linux again.",
}

_SEE_ALSO = ("ip(8)", "ip-route(8)", "ip-nexthop(8)", "ethtool(8)", "sysctl(8)", "bpftool(8)")


def man_page() -> str:
    """xdpecmp(8) in man(7) macros, from the commands' own help."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    context = click.Context(cli, info_name="xdpecmp")
    lines = [
        '.\\" Made from the commands by `make docs`: do not edit.',
        f'.TH XDPECMP 8 "" "xdpecmp {project["version"]}" "System administration"',
        ".SH NAME",
        f"xdpecmp \\- {_prose(project['description'])}",
        ".SH SYNOPSIS",
        _bold("xdpecmp") + " [" + _bold("-n") + " NETNS] COMMAND ...",
        ".SH DESCRIPTION",
        *_paragraphs(_DESCRIPTION),
        ".SH OPTIONS",
        *_options(cli),
        *_definition("-h, --help", "Show help; after a command, that command's."),
        ".SH COMMANDS",
    ]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        lines += _command(name, command)
    for heading, rows in (
        ("EXIT STATUS", _EXIT_STATUS),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
        ("EXAMPLES", _EXAMPLES),
    ):
        lines.append(f".SH {heading}")
        for term, text in rows.items():
            lines += _definition(term, text)
    lines += [".SH SEE ALSO", ", ".join(map(_reference, _SEE_ALSO))]
    return "\n".join(lines) + "\n"


def _command(name: str, command: click.Command) -> Iterator[str]:
    arguments = [_argument(each) for each in command.params if isinstance(each, click.Argument)]
    options = [_option(each) for each in _shown(command)]
    yield f".SS {_escape(name)}"
    usage = [f"[{each}]" for each in options] + arguments
    yield " ".join([_bold(f"xdpecmp {name}"), *map(_escape, usage)])
    yield ".PP"
    yield from _paragraphs(command.help or "")
    yield from _options(command)


def _shown(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def _argument(argument: click.Argument) -> str:
    if argument.metavar:
        return argument.metavar
    name = (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _option(option: click.Option, separator: str = "|") -> str:
    """Its spellings and its value. (click's own text for the value depends on click's version.)"""
    names = separator.join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {'|'.join(map(str, option.type.choices))}"
    return f"{names} {option.metavar or option.type.name.upper()}"


def _options(command: click.Command) -> Iterator[str]:
    for option in _shown(command):
        default = f" Default: {option.default}." if option.show_default is True else ""
        yield from _definition(_option(option, ", "), (option.help or "") + default)


# --- troff ---------------------------------------------------------------------------------------


def _definition(term: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield _bold(term)
    yield from _filled(text)


def _paragraphs(text: str) -> Iterator[str]:
    """An empty line separates them."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield from _filled(paragraph)


def _filled(text: str) -> Iterator[str]:
    """One paragraph as lines of which none is a request."""
    for line in textwrap.wrap(_prose(text), 100, break_on_hyphens=False, break_long_words=False):
        yield rf"\&{line}" if line.startswith((".", "'")) else line


def _prose(text: str) -> str:
    """Escaped, with options and what is in backquotes in bold."""
    marked = re.split(r"(`[^`]*`|(?<![\w-])--?[a-z][\w-]*)", text)
    return "".join(
        _bold(part.strip("`")) if number % 2 else _escape(part, option=False)
        for number, part in enumerate(marked)
    )


def _bold(text: str) -> str:
    return rf"\fB{_escape(text)}\fR"


def _reference(page: str) -> str:
    name, section = page.split("(")
    return f"{_bold(name)}({section}"


_ESCAPES = {"\\": r"\e", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga"}


def _escape(text: str, option: bool = True) -> str:
    """As troff reads it. In an option or a command a hyphen is a minus, which can be copied."""
    escapes = _ESCAPES | ({"-": r"\-"} if option else {})
    return "".join(
        escapes.get(each, each if each.isascii() else f"\\[u{ord(each):04X}]") for each in text
    )


# --- files ---------------------------------------------------------------------------------------

PAGES = {
    ROOT / "docs" / "reasons.md": reasons_page,
    ROOT / "packaging" / "xdpecmp.8": man_page,
}
"""Each page that is made, and what makes it."""


def main() -> None:
    """Write all of them."""
    for path, page in PAGES.items():
        path.write_text(page())


if __name__ == "__main__":
    main()
