"""The command line: one file a verb, loaded when it is asked for, so that --help never imports torch."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence

import click

from progan.console import plain
from progan.errors import RunFailed, UserError
from progan.version import __version__

VERBS = {
    "train": "Grow a GAN. The same command again continues the run, exactly.",
    "schedule": "Print the growth plan as a table.",
    "evaluate": "Measure how good a generator is.",
    "compare": "Set runs side by side: numbers, curves, pictures.",
    "bench": "Measure how fast this machine would train.",
    "prepare": "Turn pictures of any kind into a pyramid, and back.",
    "data": "Look at a pyramid: what is in it, and whether it is whole.",
    "generate": "Write pictures of seeds.",
    "interpolate": "Render a latent walk.",
    "project": "Find the latent of a picture.",
    "board": "Open TensorBoard on runs.",
}


CIRCUMSTANCES = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.EISDIR,
    errno.ENOTDIR, errno.EFBIG,
}  # fmt: skip
"""What a disk or a path may refuse anywhere, through no defect of the program."""


class LazyGroup(click.Group):
    """A group whose verbs are named here and imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"progan.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="progan")
def group() -> None:
    """Progressive growing of GANs: train, watch it grow, walk through its latents.

    \b
    progan train --config quickstart     a GAN of faces in minutes, on any machine
    progan board                         watch it grow
    progan interpolate                   render a latent walk of the newest run
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 the run failed, 2 a user's mistake, 130 interrupted."""
    try:
        result = group.main(arguments, prog_name="progan", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(f"progan: {error.format_message()}" + (f" ({where} --help says more)" if where else ""), err=True)
        return error.exit_code
    except (UserError, RunFailed) as error:
        click.echo(f"progan: {plain(str(error))}", err=True)
        return 2 if isinstance(error, UserError) else 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("progan: interrupted.", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in CIRCUMSTANCES:
            raise
        click.echo(f"progan: {error.filename or 'the disk'}: {error.strerror}.", err=True)
        return 2
