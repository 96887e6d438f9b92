"""Print the help of progan and of every verb. `make docs` keeps the output in docs/cli-help.txt; a test compares."""

import click

from progan.commands import VERBS, group


def text(command: click.Command, path: str) -> str:
    """One command's help, as wide as a page."""
    context = click.Context(command, info_name=path, terminal_width=110, max_content_width=110)
    return f"$ {path} --help\n{command.get_help(context)}\n"


if __name__ == "__main__":
    print(text(group, "progan"))
    for verb in VERBS:
        command = group.get_command(click.Context(group), verb)
        assert command
        print(text(command, f"progan {verb}"))
