"""`--spec FILE.yaml` and `--print-spec`: the parts of a command line that come before its options are parsed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts.config import Dict

from tljobs.errors import NotFound, UsageError
from tljobs.specs import Spec

MAX_SPEC_BYTES = 2**20


@dataclass(frozen=True)
class Preamble:
    """A command line without --spec and --print-spec, and what they said."""

    arguments: list[str]
    config: tuple[Dict, ...]
    print_spec: bool
    spec: type[Spec] | None


def read_preamble(arguments: list[str], specs: dict[str, type[Spec]]) -> Preamble:
    """Takes --spec FILE and --print-spec out of the arguments. Values of the file are defaults for the options.

    Raises UsageError for unknown keys and unreadable YAML, NotFound for a missing file.
    """
    command = arguments[0] if arguments else ""
    rest: list[str] = []
    config: tuple[Dict, ...] = ()
    print_spec = False
    words = iter(arguments)
    for word in words:
        option, separator, value = word.partition("=")
        if option == "--spec":
            path = value if separator else next(words, "")
            config = (Dict({command: _read_spec(path, _spec_of(command, specs))}),)
        elif word == "--print-spec":
            print_spec = True
            _spec_of(command, specs)
        else:
            rest.append(word)
    return Preamble(rest, config, print_spec, specs.get(command))


def spec_yaml(spec_type: type[Spec], spec: Spec | None) -> str:
    """All fields with their values or defaults (null where required), each with its description above it."""
    import yaml

    lines = []
    for name, field in spec_type.model_fields.items():
        default = None if field.is_required() else field.default
        value = default if spec is None else getattr(spec, name)
        text = yaml.safe_dump({name: list(value) if isinstance(value, tuple) else value}, allow_unicode=True)
        required = " (required)" if field.is_required() else ""
        lines.append(f"# {field.description}{required}\n{text}")
    return "".join(lines)


def _spec_of(command: str, specs: dict[str, type[Spec]]) -> type[Spec]:
    if command not in specs:
        raise UsageError("--spec and --print-spec belong to a command that has a spec", command, ", ".join(specs))
    return specs[command]


def _read_spec(path: str, spec_type: type[Spec]) -> dict[str, Any]:
    import yaml

    file = Path(path)
    if not path or not file.is_file():
        raise NotFound("no such spec file", path or "--spec")
    if file.stat().st_size > MAX_SPEC_BYTES:
        raise UsageError("the spec file is too large", path)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("the spec file is no YAML", path, " ".join(str(error).split())[:200]) from error
    if not isinstance(content, dict):
        raise UsageError("the spec file must hold keys and values", path)
    known = list(spec_type.model_fields)
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise UsageError(
                f"unknown field `{key}`", path, f"Did you mean `{close[0]}`?" if close else "See --print-spec"
            )
    # YAML 1.1 reads 1e-4 as text; cyclopts reads every value from text, as on the command line.
    return {key: _as_text(value) for key, value in content.items() if value is not None}


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [str(item) for item in value]
    return value if isinstance(value, bool) else str(value)
