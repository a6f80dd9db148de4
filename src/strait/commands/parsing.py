"""Command-line parsing: the options of a verb, and every setting under its own name, such as ``--top.layers 8``."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from strait.config import Config, config_path, read_config, setting_names
from strait.data.config import DataConfig
from strait.model.config import from_dict

_HELP_OF_SETTINGS = "--help-settings"
_EXPECTED = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'tuple'>": "a list, such as [1, 2]",
}


class _Help(DefaultHelpFormatter):
    """The library's help, without empty defaults, and without "required" on what may be left out."""

    def _get_help_string(self, action: Any) -> str:
        text = super()._get_help_string(action)
        if action.nargs == "*":
            text = text.replace(" (required)", "")
        if action.default in (None, False, []):
            text = text.replace(", default: %(default)s", "").replace(" (default: %(default)s)", "")
        return text


def verb_parser(
    verb: str, purpose: str | None, usage: str = "[options]", has_settings: bool = False
) -> ArgumentParser:
    """The parser of a verb.

    Args:
        verb: as typed.
        purpose: description for ``--help``, the docstring of the verb's file.
        usage: what follows the verb.
        has_settings: whether it also takes the settings of a configuration.
    """
    parser = ArgumentParser(
        prog=f"strait {verb}",
        usage=f"strait {verb} {usage}",
        description=purpose,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
        formatter_class=_Help,
    )
    if has_settings:
        parser.add_argument("--config", help="name or path of a configuration")
        parser.add_argument(
            _HELP_OF_SETTINGS,
            action="store_true",
            help="list the settings of the configuration, each an option such as --top.layers 8, and exit",
        )
    return parser


def add_settings(parser: ArgumentParser) -> None:
    """Add every setting to a verb's parser, for shell completion; ``parse_settings`` parses them."""
    parser.add_class_arguments(Config, skip={"data"})
    # Without the option of the group itself: --data names the photographs.
    parser.add_class_arguments(DataConfig, "data", as_group=False)


def parse(parser: ArgumentParser, argv: list[str]) -> Namespace:
    """Parse a verb's options.

    Raises:
        ValueError: for unknown or invalid options, and for empty values.
    """
    try:
        args = parser.parse_args(argv)
    except ArgumentError as error:
        raise ValueError(_rephrased(str(error), parser, argv)) from error
    for name, value in vars(args).items():
        if isinstance(value, str):
            args[name] = _checked(_option(parser, name), value)
    return args


def named_config(argv: list[str]) -> Config | None:
    """The configuration that ``--config`` names in the arguments of a verb; None without ``--config``.

    Raises:
        ValueError: if there is no such configuration, or it is invalid.
    """
    name = value_of(argv, "--config")
    return None if name is None else read_config(config_path(name))


def value_of(argv: list[str], option: str) -> str | None:
    """The last value of an option, before the arguments are parsed; None without the option.

    Raises:
        ValueError: if it is empty.
    """
    values = [word.partition("=")[2] for word in argv if word.startswith(option + "=")]
    values += [after for word, after in pairwise(argv) if word == option]
    return _checked(option, values[-1]) if values else None


def parse_settings(parser: ArgumentParser, config: Config | None, argv: list[str]) -> tuple[Config | None, Namespace]:
    """Parse a verb's options together with settings that override the configuration's.

    Args:
        parser: of the verb's options.
        config: the configuration; without one, settings are refused.
        argv: options and settings in any order.

    Returns:
        The configuration with these settings, and the options.

    Raises:
        ValueError: naming the unknown or invalid option or setting.
    """
    settings, rest = _divided(argv)
    values = "the paper's values; --config C shows those of C" if config is None else "current values"
    library = verb_parser(parser.prog.removeprefix("strait "), f"Settings, with {values}.", "[--SETTING VALUE ...]")
    library.add_class_arguments(Config, default=dataclasses.asdict(config or Config()))
    if _HELP_OF_SETTINGS in rest:
        library.print_help()
        sys.exit(0)
    args = parse(parser, rest)
    if config is None:
        if settings:
            raise ValueError(f"{settings[0]}: settings need a configuration; give it by --config")
        return None, args
    names = [name for name in setting_names(Config) if name != "data"]
    for word in settings[::2]:
        if word.removeprefix("--") not in names:
            raise ValueError(f"{word} is not a setting{_nearest(word, (f'--{name}' for name in names))}")
    joined = [f"{name}={value}" for name, value in zip(settings[::2], settings[1::2], strict=True)]
    tree = parse(library, joined).as_dict()
    return from_dict(Config, tree, "config"), args


def _divided(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into settings, each a name and a value, and the rest. A setting has a dot in its name, or is a
    field of the configuration, except ``--data``, which names the photographs."""
    fields = {field.name for field in dataclasses.fields(Config)} - {"data"}
    settings: list[str] = []
    rest: list[str] = []
    queue = iter(argv)
    for word in queue:
        option, is_joined, value = word.partition("=")
        name = option.removeprefix("--")
        if not option.startswith("--") or not ("." in name or name in fields):
            rest.append(word)
            continue
        setting_value = value if is_joined else next(queue, None)
        if setting_value is None:
            raise ValueError(f"{option}: a value must follow")
        settings += [option, setting_value]

    return settings, rest


def _checked(option: str, value: str) -> str:
    """A text as typed, with ``~`` expanded, which shells leave in quotes and after ``=``."""
    if not value.strip():
        raise ValueError(f"{option}: its value is empty (is a variable not set?)")
    if value == "~" or value.startswith("~/"):
        value = os.path.expanduser(value)
        if value.startswith("~"):
            raise ValueError(f"{option}: {value}: there is no home folder; give the full path")
    return value


def _option(parser: ArgumentParser, name: str) -> str:
    """The name of an option on the command line, from its name in the namespace."""
    options = (action.option_strings[:1] or [name.upper()] for action in parser._actions if action.dest == name)
    return next(options, [f"--{name}"])[0]


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.7)
    return f"; the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}" if near else ""


def _rephrased(message: str, parser: ArgumentParser, argv: list[str]) -> str:
    """The library's message in one line, with the names of the command line."""
    known = [option for action in parser._actions for option in action.option_strings]
    # Unknown options first: the argument after one was taken for something else.
    for word in [] if message.startswith("Parser key") else argv:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in ("--", *known):
            return f"{parser.prog} has no option {option}{_nearest(option, known)}"
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        return f"{parser.prog} does not take {match[1]!r}; {parser.prog} --help lists what it takes"
    if match := re.match(r"the following arguments are required: (.*)", message):
        options = [_option(parser, name.strip()) for name in match[1].split(",")]
        needed = f"{', '.join(options)} {'is' if len(options) == 1 else 'are'} needed"
        return f"{parser.prog}: {needed}; {parser.prog} --help says what for"
    if match := re.match(r"argument (\S+): expected one argument", message):
        return f"{match[1]}: a value must follow"
    if match := re.match(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message):
        option = match[1] if match[1].startswith("-") else match[1].upper()
        return f"{option}: {match[2]} is not one of {match[3].replace(chr(39), '')}"
    if match := re.search(r"Expected an? (.+?)\. Got value: (.*)", message):
        # For a group that may be absent the library names two keys, the group's and that of the setting within it.
        name = ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', message)))
        expected, option = match[1], _option(parser, name)
        if expected.startswith("typing.Literal["):
            expected = "one of " + expected.removeprefix("typing.Literal[").removesuffix("]").replace("'", "")
        elif count := re.match(r"tuple with (\d+) elements", expected):
            expected = f"a list of {count[1]} values"
        value = value_of(argv, option)
        return f"{option}: {match[2] if value is None else value!r} is not {_EXPECTED.get(expected, expected)}"
    if match := re.match(r'Parser key "(\w+)":\s+Unable to load config', message):
        return f"--{match[1]}: {value_of(argv, f'--{match[1]}')!r} is neither a file nor settings, as '{{a: 1, b: 2}}'"
    return message
