"""What is looked at before options are read: the YAML file behind --config, and how numbers are written."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from cyclopts import App, Parameter
from cyclopts.config import Dict

from pml_center.names import one_line, unknown_name
from pml_center.text_files import read_text
from pml_center.training.config import NAMES

if TYPE_CHECKING:
    from cyclopts import ArgumentCollection

WRITTEN = {
    int: re.compile("[+-]?[0-9]+"),
    float: re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|nan)", re.IGNORECASE),
}
ConfigFile = Annotated[Path | None, Parameter(name="--config")]


def read_config_file(app: App, commands: tuple[str, ...], arguments: "ArgumentCollection") -> None:
    """Give options what the file behind ``--config`` says of them, where the command line says nothing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML, no mapping, or a key that is no option.
    """
    given = next((argument.tokens for argument in arguments if "--config" in argument.names), None)
    if not given:
        return
    import yaml

    path = given[-1].value
    if not Path(path).is_file():
        raise FileNotFoundError(f"config must be an existing YAML file, got {path!r}. Check the path.")
    try:
        values = yaml.safe_load(read_text(path, "config"))
    except yaml.YAMLError as error:
        raise ValueError(f"config must be a YAML file, got {path!r}: {one_line(error)}. Correct the file.") from error
    if not isinstance(values, dict):
        raise ValueError(f"config must map options to values, got {path!r} with a {type(values).__name__}.")
    if isinstance(values.get("config"), dict):  # compare.yaml: there, those of every run
        values |= values.pop("config")
    options = [name.removeprefix("--").replace("-", "_") for argument in arguments for name in argument.names]
    for key in values:
        if str(key) not in options:
            remedy = f"See pml-center {' '.join(commands)} --help."
            raise ValueError(unknown_name(f"key in {path}", str(key), options, remedy))
    for command in reversed(commands):  # without them, cyclopts drops keys that are commands too: data, losses, search
        values = {command: values}
    Dict(values, source=path)(app, commands, arguments)


def check_numbers(app: App, commands: tuple[str, ...], arguments: "ArgumentCollection") -> None:
    """Numbers must be written as such: cyclopts would round 1.5 to 2, and read 2_0 as 20.

    Raises:
        ValueError: another way of writing.
    """
    for argument in arguments:
        kind = _number(argument.hint)
        if kind is None:
            continue
        for token in argument.tokens:
            # Of what has no digit cyclopts itself says that it is no number.
            if any(map(str.isdigit, token.value)) and not WRITTEN[kind].fullmatch(token.value):
                name = argument.name.lstrip("-").replace("-", "_")
                where = "" if token.source == "cli" else f" in {token.source}"
                remedy = f"See pml-center {' '.join(commands)} --help."
                raise ValueError(f"{name} must be {NAMES[kind]}, got {token.value!r}{where}. {remedy}")


def _number(hint: Any) -> type | None:
    """The kind of number in a type hint, such as ``tuple[float, ...] | None``; none where any text will do."""
    if str in get_args(hint):
        return None
    return hint if hint in WRITTEN else next(filter(None, map(_number, get_args(hint))), None)
