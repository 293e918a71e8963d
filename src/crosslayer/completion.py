"""Completion scripts for shells: commands, their options, and file names.

What a script offers is written into it, so that completing starts no Python; it is as old as the printing of it.
"""

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

_BASH = """_crosslayer() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} offered=
  if [[ $COMP_CWORD -eq 1 ]]; then
    offered="{commands} --help --version --print-completion"
  elif [[ $word == -* ]]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$offered" -- "$word"))
}}
complete -o default -F _crosslayer crosslayer
"""
_ZSH = """#compdef crosslayer
_crosslayer() {{
  local -a offered=()
  if (( CURRENT == 2 )); then
    offered=({commands} --help --version --print-completion)
  elif [[ $PREFIX == -* ]]; then
    case $words[2] in
{cases}
    esac
  fi
  if (( $#offered )); then compadd -a offered; else _files; fi
}}
compdef _crosslayer crosslayer
"""


def completion_script(
    shell: str, commands: Mapping[str, str], find: Callable[[str], Callable[[list[str]], Any]]
) -> str:
    """The script of a shell.

    Args:
        shell: bash, zsh or fish.
        commands: names and what they do.
        find: a command's function, which prints its help.

    Raises:
        KeyError: another shell.
    """
    return _SHELLS[shell](commands, {name: _options(find(name)) for name in commands})


def _options(function: Callable[[list[str]], Any]) -> list[str]:
    """The options that a command's help shows."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        function(["--help"])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
    lines = re.findall(r"^[^\w-]*(--?[a-z].*?)(?:  |$)", plain, re.MULTILINE)
    return sorted({flag for line in lines for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", line)})


def _in_cases(form: str, template: str) -> Callable[[Mapping[str, str], Mapping[str, list[str]]], str]:
    def written(commands: Mapping[str, str], options: Mapping[str, list[str]]) -> str:
        cases = "\n".join(form.format(name=name, flags=" ".join(flags)) for name, flags in options.items())
        return template.format(commands=" ".join(commands), cases=cases)

    return written


def _fish(commands: Mapping[str, str], options: Mapping[str, list[str]]) -> str:
    lines = ["complete -c crosslayer -n __fish_use_subcommand -l print-completion -x -a 'bash zsh fish'"]
    for name, text in commands.items():
        said = text.replace("'", r"\'")
        lines.append(f"complete -c crosslayer -n __fish_use_subcommand -f -a {name} -d '{said}'")
        within = f"'__fish_seen_subcommand_from {name}'"
        lines += [f"complete -c crosslayer -n {within} -l {flag.removeprefix('--')}" for flag in options[name]]
    return "\n".join(lines) + "\n"


_SHELLS = {
    "bash": _in_cases('      {name}) offered="{flags}" ;;', _BASH),
    "zsh": _in_cases("      {name}) offered=({flags}) ;;", _ZSH),
    "fish": _fish,
}
SHELLS = tuple(_SHELLS)
