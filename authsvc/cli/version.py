"""`authsvc version`."""

from __future__ import annotations

from authsvc import __version__
from authsvc.cli.options import FormOption
from authsvc.cli.output import Form, show


def version(form: FormOption = Form.TABLE) -> None:
    """Print the version."""
    if form is Form.JSON:
        show(form, {"version": __version__})
    else:
        print(__version__)
