"""The command line: one module a command."""

import logging
import sys

from cyclopts import App, CycloptsError, Parameter

from pml_center import __version__
from pml_center.cli.config_file import read_config_file

app = App(
    name="pml-center",
    help="Train with center loss and the softmax family of pytorch-metric-learning, and measure what comes of it.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    config=read_config_file,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),  # --recall-at 1 2 4
    help_epilogue="Add --debug to any command to see where an error comes from.",
)
# By path, so that --help does not wait for torch.
app.command("pml_center.cli.demo:demo", help="See what center loss does, on embedded handwritten digits.")
app.command("pml_center.cli.train:train", help="Fit an embedding on one data set and measure it on what was held out.")
app.command("pml_center.cli.resume:resume", help="Go on with a run that stopped, as if it never had.")
app.command("pml_center.cli.compare:compare", help="Find out which loss is best, and whether the difference is real.")
app.command(
    "pml_center.cli.eval:evaluate", name="eval", help="Measure a model, or embeddings, by one protocol or several."
)
app.command("pml_center.cli.embed:embed", help="Write the embeddings of images to a folder.")
app.command("pml_center.cli.search:search", help="Find the images that are most like others.")

EXIT_CODES: dict[type[BaseException], int] = {
    ValueError: 2,
    OSError: 2,
    ImportError: 3,
    FloatingPointError: 1,
    RuntimeError: 1,
    KeyboardInterrupt: 130,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command. What goes wrong ends in one sentence on stderr; ``--debug`` shows where.

    Exit codes: 1 for a run that failed, 2 for mistakes in the arguments or in the data, 3 for a package that is missing,
    130 for an interrupt.

    Args:
        arguments: of the command line; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("pml_center").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it prints by itself, and would say everything twice
    try:
        app([argument for argument in arguments if argument != "--debug"], exit_on_error=False)
    except CycloptsError:  # printed already
        sys.exit(2)
    except tuple(EXIT_CODES) as error:
        if "--debug" in arguments:
            raise
        message = str(error)
        if "DataLoader worker process" in message:  # there, the message is a whole traceback
            message = message.strip().splitlines()[-1].partition(": ")[2]
        print(f"pml-center: {message or 'interrupted'}", file=sys.stderr)
        sys.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))
