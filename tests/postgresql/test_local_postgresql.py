"""`--local` beside a record on PostgreSQL while its service runs, as by `kubectl exec` in a replica's pod."""

from __future__ import annotations

from pathlib import Path

from tests.postgresql.conftest import PostgresqlBench
from tests.support.command_line import CommandLine
from tests.support.process import serving


def test_an_administrator_is_made_beside_the_record_while_its_service_runs(
    postgresql: PostgresqlBench, tmp_path: Path
) -> None:
    kek = tmp_path / "kek"
    kek.write_text("6b" * 32)
    kek.chmod(0o600)
    settings = {
        "record.url": postgresql.opening.url,
        "record.password_file": str(postgresql.opening.password_file),
        "keys.kek": str(kek),
    }
    config = tmp_path / "authsvc.toml"
    config.write_text("".join(f'{name} = "{value}"\n' for name, value in {**settings, "issuer": "http://x"}.items()))
    with serving(tmp_path / "data", settings=settings | {"issuer": "http://x"}) as service:
        pod = CommandLine(service.directory)
        saved = tmp_path / "second.json"
        made = pod.json("clients", "create", "second", "--admin", "--local", "--config", config, "--save", saved)
        assert made["client"]["roles"] == ["authsvc.admin"]
        saved.write_text(saved.read_text().replace("127.0.0.1:7070", service.grpc))
        assert pod("clients", "list", "--credentials", saved).code == 0
