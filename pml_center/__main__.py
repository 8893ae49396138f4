"""``python -m pml_center`` is ``pml-center``."""

from pml_center.cli import main

main()
