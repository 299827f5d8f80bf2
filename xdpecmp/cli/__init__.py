"""The command line: the only place that knows click (8.1.3, as in Debian 12, or newer). One file
a command.

Data goes to stdout, everything else to stderr. Exit status: 0 done, 1 what was asked for is not so,
2 usage or environment error, told in one line. No traceback reaches a user; XDPECMP_DEBUG=1 shows
it to a developer.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from errno import ENOSPC

import click

from ..errors import NotPermitted, XdpecmpError, what_failed
from ..netlink import netns as namespaces
from . import output

COMMANDS = (
    "attach",
    "detach",
    "status",
    "routes",
    "weights",
    "stats",
    "explain",
    "verify",
    "doctor",
    "demo",
)


class _Commands(click.Group):
    """Loads a command's module when it is needed: `xdpecmp status` needs no demo."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:  # what click makes of this depends on its version
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f".{cmd_name}", __name__).command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-n",
    "--netns",
    metavar="NETNS",
    help="Work in this network namespace: a name as for ip -n, a path or a process id.",
)
@click.version_option(package_name="xdpecmp")
@click.pass_context
def cli(context: click.Context, netns: str | None) -> None:
    """Linux multipath routing at XDP speed."""
    context.obj = netns
    if netns is not None:
        namespaces.enter(netns)
        output.work_in(netns)


def main() -> None:
    """Run the command line and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as in `xdpecmp status >&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        status = _run()
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        path = (
            error.ctx.command_path
            if isinstance(error, click.UsageError) and error.ctx
            else "xdpecmp"
        )
        _fail(error.format_message().rstrip("."), f"see {path} --help")
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # as in `xdpecmp routes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except XdpecmpError as error:
        _fail(error.message, error.hint)
    except PermissionError as error:
        denied = NotPermitted(str(error.filename or "the operation"))
        _fail(denied.message, denied.hint)
    except OSError as error:
        at_stdout = error.errno == ENOSPC and not error.filename
        _fail(f"{'standard output: ' if at_stdout else ''}{what_failed(error)}")
    except ModuleNotFoundError as error:
        _fail(f"the Python module {error.name} is missing", "install it: vagrant/provision.sh")
    except Exception as error:
        _fail(
            f"this should not have happened ({type(error).__name__}: {error})",
            "please report it with what XDPECMP_DEBUG=1 adds",
        )


def _run() -> object:
    """The command's result. click makes an exit status of 1 of a closed pipe: undo that."""
    try:
        return cli.main(prog_name="xdpecmp", standalone_mode=False)
    except SystemExit:
        if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            raise BrokenPipeError from None
        raise


def _fail(message: str, hint: str = "") -> None:
    """One line on stderr, exit status 2."""
    if os.environ.get("XDPECMP_DEBUG"):
        raise  # what is being handled
    line = f"xdpecmp: {_plain(message)}" + (f"; {_plain(output.placed(hint))}" if hint else "")
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    sys.exit(2)


_LONGEST_MESSAGE = 1000


def _plain(text: str) -> str:
    """Of one line and bounded, whatever a user typed stands in it: nothing moves the cursor."""
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[: _LONGEST_MESSAGE // 2]} ... {text[-_LONGEST_MESSAGE // 4 :]}"
    text = text.replace("\n", " ")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
