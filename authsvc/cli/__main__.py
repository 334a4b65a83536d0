"""`python -m authsvc.cli`: the same as `authsvc`, where the script is not on the path."""

from __future__ import annotations

from authsvc.cli.main import main

main()
