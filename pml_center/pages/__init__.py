"""A report as one HTML page: ``write`` puts it together from the ``parts`` that each kind of report has."""
