"""The command line. Only click is imported here; each verb imports what it needs when it runs.

Exit codes: 0 done and within budget; 1 done, budget not met; 2 usage, or a file that cannot be
read or written; 3 the input cannot be read or is not supported; 5 the device or a measurement
failed; 70 an error of this program; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any, NoReturn

import click

from compress.cli.options import debugging, general_options
from compress.errors import CompressError

INTERNAL_ERROR = 70
"""EX_SOFTWARE of BSD's sysexits: not one of the codes that say something about the input."""
INTERRUPTED = 130

VERBS = ("run", "inspect", "bench", "plan", "devices", "report")


class _Main(click.Group):
    """Loads a verb's file when it is asked for, and turns every error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"compress.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        given = list(args)  # parsing consumes the list; the report tells how to repeat the run
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.obj = given
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _leave(ctx, "interrupted", INTERRUPTED)
        except CompressError as error:
            _leave(ctx, f"error: {error}", error.exit_code)
        except MemoryError:
            _leave(ctx, "error: out of memory; a smaller --shape or fewer samples need less", 3)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe has left; click exits quietly
                raise
            where = f"{error.filename}: " if error.filename else ""
            _leave(ctx, f"error: {where}{error.strerror or error}", 2)
        except Exception as error:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            advice = "" if debugging(ctx) else "; run with --debug for the traceback"
            _leave(ctx, f"internal error: {what}{advice}", INTERNAL_ERROR)


def _leave(ctx: click.Context, message: str, exit_code: int) -> NoReturn:
    """End with one line on standard error, under --debug after the traceback."""
    from compress.report.text import printable

    if debugging(ctx):
        import traceback

        traceback.print_exc()
    click.echo(printable(" ".join(message.split())), err=True)
    ctx.exit(exit_code)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import compress

        click.echo(f"compress {compress.__version__}")
        ctx.exit()


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@general_options
@click.pass_context
def main(ctx: click.Context) -> None:
    """Make a neural network as fast as possible on a device, within a budget, and prove it.

    \b
    compress run model.onnx --data calib.npz --eval eval.py:evaluate --max-drop 1% -o out
    """
    if not sys.warnoptions and not debugging(ctx):
        import warnings

        warnings.simplefilter("ignore")
