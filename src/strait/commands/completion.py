"""Print a shell completion script for verbs and options."""

from __future__ import annotations

import importlib

import shtab
from jsonargparse import ArgumentParser

from strait import __version__
from strait.commands import VERBS
from strait.commands.parsing import add_settings, parse, verb_parser
from strait.config import config_names


def parser() -> ArgumentParser:
    parser = verb_parser("completion", __doc__, f"{{{'|'.join(shtab.SUPPORTED_SHELLS)}}}")
    parser.add_argument(
        "shell", choices=shtab.SUPPORTED_SHELLS, help="which shell; save the output where it looks for completions"
    )
    return parser


def run(argv: list[str]) -> int:
    shell = parse(parser(), argv).shell
    print(all_verbs().get_completion_script(f"shtab-{shell}"))
    return 0


def all_verbs() -> ArgumentParser:
    """One parser with all verbs, their actions and options."""
    parser = ArgumentParser(prog="strait", version=__version__)
    verbs = parser.add_subcommands(dest="verb", required=False)
    for verb in sorted(VERBS):
        module = importlib.import_module(f"strait.commands.{verb}")
        if not hasattr(module, "parsers"):
            verbs.add_subcommand(verb, _completed(module.parser()))
            continue
        actions = verbs.add_subcommand(verb, ArgumentParser(description=module.__doc__)).add_subcommands(
            dest="action", required=False
        )
        for name, action in module.parsers().items():
            actions.add_subcommand(name, _completed(action))
    return parser


def _completed(parser: ArgumentParser) -> ArgumentParser:
    """Complete a verb's parser with the choices of its options."""
    actions = {action.dest: action for action in parser._actions}
    if "config" in actions:
        actions["config"].choices = config_names()
    if "help_settings" in actions:
        add_settings(parser)
    return parser
