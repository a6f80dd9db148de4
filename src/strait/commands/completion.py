"""Print what makes a shell complete verbs and options."""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
import re

import strait.commands
from strait.commands.arguments import parse, verb_parser
from strait.config import config_names

# A cursor behind an option takes its choices, or files; elsewhere it takes what the words before it allow.
_BASH = """\
_strait() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD - 1]}}" words="" options=""
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{options}
    esac
    case "$before" in
        --config) words="{configs}" ;;
{choices}
        --*) [[ "$word" == -* ]] && words="$options" ;;
        *)
            if [[ "$COMP_CWORD" == 1 ]]; then words="{verbs} --help --version"
            elif [[ "$word" == -* ]]; then words="$options"
            elif [[ "$COMP_CWORD" == 2 ]]; then
                case "${{COMP_WORDS[1]}}" in
{actions}
                esac
            fi ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _strait strait
"""
# zsh has a reader of bash's completions.
_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


def run(words: list[str]) -> int:
    parser = verb_parser("completion", __doc__, "{bash|zsh|fish}")
    parser.add_argument(
        "shell", choices=["bash", "zsh", "fish"], help="which shell; keep what it prints where that reads"
    )
    shell = parse(parser, words).shell
    print(_fish() if shell == "fish" else (_ZSH if shell == "zsh" else "") + _bash(), end="")
    return 0


def known_options() -> dict[str, set[str]]:
    """The options of each verb, those of all its actions together."""
    known: dict[str, set[str]] = {verb: set() for verb in _verbs()}
    for words, text in _helps().items():
        known[words[0]].update(_options(text))
    return known


def _bash() -> str:
    helps, verbs = _helps(), _verbs()
    options = []
    for words, text in helps.items():
        pattern = f'"{words[0]} "*' if len(words) == 1 else f'"{" ".join(words)}"'
        if _options(text):
            options.append(f'        {pattern}) options="{" ".join(_options(text))}" ;;')
    choices = {name: values for text in helps.values() for name, values in _choices(text).items()}
    return _BASH.format(
        options="\n".join(options),
        configs=" ".join(config_names()),
        choices="\n".join(f'        {name}) words="{" ".join(values)}" ;;' for name, values in choices.items()),
        verbs=" ".join(verbs),
        actions="\n".join(
            f'                    {verb}) words="{" ".join(_actions(helps[verb,]))}" ;;'
            for verb in verbs
            if _actions(helps[verb,])
        ),
    )


def _fish() -> str:
    helps, verbs = _helps(), _verbs()
    lines = [f'complete -c strait -n __fish_use_subcommand -f -a "{" ".join(verbs)}"']
    for words, text in helps.items():
        seen = " && ".join(f"__fish_seen_subcommand_from {word}" for word in words)
        choices = {"--config": config_names(), **_choices(text)}
        for name in _options(text):
            values = f' -x -a "{" ".join(choices[name])}"' if name in choices else ""
            lines.append(f'complete -c strait -n "{seen}" -l {name.removeprefix("--")}{values}')
        if len(words) == 1 and _actions(text):
            lines.append(f'complete -c strait -n "{seen}" -a "{" ".join(_actions(text))}"')
    return "\n".join(lines) + "\n"


def _verbs() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(strait.commands.__path__))


def _helps() -> dict[tuple[str, ...], str]:
    """What each verb, and each action that has options of its own, says of itself."""
    helps: dict[tuple[str, ...], str] = {}
    for verb in _verbs():
        helps[verb,] = _help(verb)
        if not _options(helps[verb,]):
            helps.update({(verb, action): _help(verb, action) for action in _actions(helps[verb,])})
    return helps


def _help(verb: str, *words: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        importlib.import_module(f"strait.commands.{verb}").run([*words, "--help"])
    return said.getvalue()


def _options(text: str) -> list[str]:
    names = re.findall(r"^ +(?:-h, )?(--[a-z][\w.-]*)", text, flags=re.MULTILINE)
    names += ["--config"] if "--config" in text.partition("\n")[0] else []
    return sorted({name for name in names if not name.endswith(".help")} - {"--settings"})


def _choices(text: str) -> dict[str, list[str]]:
    found = re.findall(r"^ +(--[a-z][\w.-]*) \{([\w,.:-]+)\}", text, flags=re.MULTILINE)
    return {name: values.split(",") for name, values in found}


def _actions(text: str) -> list[str]:
    found = re.match(r"usage: strait \w+ [{\[](\w+(?:\|\w+)+)[}\]]", text)
    return found[1].split("|") if found else []
