"""The command line: one module a command."""

import logging
import sys

from cyclopts import App

from pml_center import __version__

app = App(
    name="pml-center",
    help="Train with center loss and the softmax family of pytorch-metric-learning, and measure retrieval.",
    version=__version__,
    result_action="return_value",
)
# By path, so that --help does not wait for torch.
app.command("pml_center.cli.demo:demo", help="See what center loss does, on embedded handwritten digits.")
app.command("pml_center.cli.train:train", help="Fit an embedding on one data set and measure it on what was held out.")
app.command("pml_center.cli.eval:evaluate", name="eval", help="Measure retrieval with a trained model.")

USER_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Mistakes of the user end in one sentence on stderr and exit code 2.

    Args:
        arguments: of the command line; those of the process by default.
    """
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("pml_center").setLevel(logging.INFO)
    try:
        app(arguments)
    except USER_ERRORS as error:
        print(f"pml-center: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
