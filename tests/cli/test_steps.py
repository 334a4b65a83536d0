"""How a walk looks on a person's terminal."""

from __future__ import annotations

import pytest

from authsvc.cli.output import Form
from authsvc.cli.steps import Answer, Walk


@pytest.mark.parametrize("columns", [80, 60, 200])
def test_an_answer_is_shown_whole_on_a_terminal_of_any_width(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": str(columns), "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    answer = "orders:refund on orders/7: deny, no_binding"
    Walk(Form.TABLE).add("check what is not", Answer(True, answer), 0.7)
    lines = capsys.readouterr().out.splitlines()
    assert answer in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= columns
