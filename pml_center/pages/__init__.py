"""A report as one HTML page: ``write`` puts it together from the ``parts`` that each kind of report has."""

from pml_center.names import require

require(__name__, "PIL", "jinja2", "matplotlib")
