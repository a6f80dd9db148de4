"""Print what makes a shell complete verbs and options."""

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
        "shell", choices=shtab.SUPPORTED_SHELLS, help="which shell; keep what it prints where that reads"
    )
    return parser


def run(words: list[str]) -> int:
    shell = parse(parser(), words).shell
    print(all_verbs().get_completion_script(f"shtab-{shell}"))
    return 0


def all_verbs() -> ArgumentParser:
    """One parser of all verbs, their actions and options."""
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
    """A verb's parser that knows what there is to choose from."""
    named = {action.dest: action for action in parser._actions}
    if "config" in named:
        named["config"].choices = config_names()
    if "help_settings" in named:
        add_settings(parser)
    return parser
