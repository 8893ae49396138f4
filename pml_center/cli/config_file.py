"""--config: a YAML file of options, before which flags go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.config import Dict

from pml_center.names import one_line, unknown_name
from pml_center.text_files import read_text

if TYPE_CHECKING:
    from cyclopts import ArgumentCollection

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
