"""``python -m pml_center`` is ``pml-center``."""

from pml_center.cli import main

if __name__ == "__main__":  # a process that is spawned, to read images, imports this module
    main()
