"""A policy's keys and defaults stand in the dataclass; flags, their help and the documents have to agree with it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jwks_server import cli
from jwks_server.core.policy import RULES, Policy

ROOT = Path(__file__).parents[2]
KEYS = tuple(Policy.__dataclass_fields__)
COMMANDS = {"serve": ["--keystores", "x"], "check": ["x"], "show": ["x", "a.com"], "revoke": ["x", "a.com", "kid"]}
"""All commands that take a policy, with the arguments that they need."""


def rows(document: str, header: str) -> list[list[str]]:
    """Return the cells of the table that has this header line."""
    _, found, after = (ROOT / document).read_text(encoding="utf-8").partition(f"{header}\n")
    assert found, f"{document} has no table {header}"
    lines = after.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def value(key: str, cell: str) -> object:
    """Return what a table's cell says of a key, as TOML gives it."""
    if cell == "all":
        return None
    return tomllib.loads(f"{key} = {cell.strip('`')}")[key]


def policy_of(values: dict[str, Any]) -> Policy:
    return Policy().updated({key: given for key, given in values.items() if given is not None})


def test_the_documented_table_names_every_key_with_its_default() -> None:
    """In docs/configuration.md, as it would be written into tenant.toml."""
    table = {
        row[0].strip("`"): row[1] for row in rows("docs/configuration.md", "| key | default | allowed | meaning |")
    }
    assert sorted(table) == sorted(KEYS)
    documented = {key: value(key, cell) for key, cell in table.items()}
    assert policy_of(documented) == Policy()
    for key, given in documented.items():
        assert given is None or RULES[key](key, given) == getattr(Policy(), key), key
        assert (given is None) == (getattr(Policy(), key) is None), key


def test_the_readme_says_the_same_of_the_keys_that_it_names() -> None:
    """Flag, variable, key of the file and default."""
    named = [row for row in rows("README.md", "| flag | environment | file | default | meaning |") if "`" in row[2]]
    policies = [row for row in named if row[2].strip("`") in KEYS]
    assert {"max_age", "stale_if_error"} <= {row[2].strip("`") for row in policies}
    for flag, variable, key, default, _ in policies:
        name = key.strip("`")
        assert flag == f"`--{name.replace('_', '-')}`"
        assert variable == f"`JWKS_SERVER_{name.upper()}`"
        assert value(name, default) == getattr(Policy(), name)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_flag_for_every_key_with_its_default(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the key's name; without any flag the policy is the dataclass's."""
    for key in KEYS:
        monkeypatch.delenv(f"JWKS_SERVER_{key.upper()}", raising=False)
    context = cli.cli.commands[command].make_context(command, list(COMMANDS[command]))
    flags = {parameter.name: parameter for parameter in context.command.params if isinstance(parameter, click.Option)}
    for key in KEYS:
        assert flags[key].opts == [f"--{key.replace('_', '-')}"]
        assert flags[key].envvar == f"JWKS_SERVER_{key.upper()}"
        assert flags[key].help
    assert policy_of({key: context.params[key] for key in KEYS}) == Policy()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_shows_every_default(command: str) -> None:
    """As it would be written on the command line."""
    text = " ".join(CliRunner().invoke(cli.cli, [command, "--help"], terminal_width=110).stdout.split())
    for key in KEYS:
        match getattr(Policy(), key):
            case bool(default):
                shown = key.replace("_", "-") if default else f"no-{key.replace('_', '-')}"
            case None:
                shown = "(all)"
            case ():
                shown = "(none)"
            case tuple(default):
                shown = ",".join(default)
            case default:
                shown = str(default)
        stated = re.search(rf"\[env var: JWKS_SERVER_{key.upper()}; default: (.*?)\]", text)
        assert stated, key
        assert stated[1] in {shown, f"{shown}s"}, key
