"""The first start: data directory, key-encryption key and administrator, where nothing was given.

Owns: what is generated, and what must be given instead (CONTRACT, "First start"). May import: everything.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from authsvc.config import Config, split_listen
from authsvc.core.client_secrets import LEAST_CHARACTERS
from authsvc.core.errors import InvalidRequest
from authsvc.ports.record import Record
from authsvc.storage import secret_files
from authsvc.storage.data_directory import ADMIN_FILE
from authsvc.usecases.clients import Clients

KEK_FILE = "kek"
DATABASE_FILE = "authsvc.db"
_FIRST_ADMIN = "admin"


def prepare_directory(directory: Path) -> None:
    """Make the data directory with mode 0700; raises InvalidRequest where it cannot be made or is open to others."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
    except OSError as error:
        raise InvalidRequest.of("AUTHSVC_DATA_DIR", f"cannot make {directory}: {error.strerror}") from None
    if mode & 0o007:
        raise InvalidRequest.of("AUTHSVC_DATA_DIR", f"{directory} is open to everybody; run: chmod o-rwx {directory}")


def new_client_secret() -> str:
    """256 random bits as text (STANDARDS S9)."""
    return secrets.token_urlsafe(32)


def key_encryption_key(config: Config, directory: Path) -> bytes:
    """`keys.kek`, else the generated one of the data directory; raises InvalidRequest naming the setting."""
    if config.keys.kek is not None:
        return secret_files.kek_bytes(config.keys.kek)
    path = directory / KEK_FILE
    if not path.exists():
        if (directory / DATABASE_FILE).exists():
            raise InvalidRequest.of("keys.kek", f"{path} is gone, but the record that it sealed is there; put it back")
        secret_files.write_secret(path, secrets.token_hex(32).encode() + b"\n", "keys.kek")
    return secret_files.kek_bytes(path)


def default_issuer(config: Config) -> str:
    """The issuer of an empty record where none is set; empty where the port is left open and so no URL would hold."""
    if split_listen(config.server.http_listen)[1] == 0:
        return ""
    scheme = "https" if config.server.tls.mode.speaks_tls else "http"
    return f"{scheme}://{config.server.http_listen}"


def ensure_admin(config: Config, directory: Path, record: Record, clients: Clients, now: int) -> None:
    """The configured admin, or in an empty record one whose credentials go to a file."""
    given = config.bootstrap
    if given.admin_client_id and given.admin_secret_file is not None:
        secret = secret_files.read_secret(given.admin_secret_file, "bootstrap.admin_secret_file")
        try:
            text = secret.decode("ascii").strip()
        except UnicodeDecodeError:
            text = ""
        if len(text) < LEAST_CHARACTERS:
            raise InvalidRequest.of(
                "bootstrap.admin_secret_file",
                f"{given.admin_secret_file} holds no secret of {LEAST_CHARACTERS} characters or more",
            )
        clients.ensure_admin(given.admin_client_id, text, now=now)
        return
    if record.list_clients(None, 1).items:
        return
    secret_text = new_client_secret()
    credentials = secret_files.AdminCredentials(
        address=config.server.listen,
        client_id=_FIRST_ADMIN,
        client_secret=secret_text,
    )
    # The file first: a start that ends between the two leaves an empty record, and the next one begins again.
    secret_files.write_secret(directory / ADMIN_FILE, credentials.to_bytes(), "AUTHSVC_DATA_DIR", replace=True)
    clients.ensure_admin(_FIRST_ADMIN, secret_text, now=now)
