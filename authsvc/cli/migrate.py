"""`authsvc migrate`: the part of a start that needs the right to make tables.

Owns: the command. May import: `config`, the record's opening. It needs the record's URL and password, and no
key-encryption key.
"""

from __future__ import annotations

import os
from contextlib import nullcontext

import typer

from authsvc.cli.faults import Exit, of_error
from authsvc.cli.options import ConfigOption, FormOption
from authsvc.cli.output import Form, show
from authsvc.cli.settings import load_config


def migrate(
    context: typer.Context,
    config: ConfigOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Bring the record's tables to this release, and make them where there are none.

    Takes the settings that `serve` takes. Safe beside running replicas and beside itself: one works, the others wait.
    A record of a newer release that this one can use is left as it is; one that it cannot use is exit code 2.
    """
    chosen = load_config(config, context.args)
    from authsvc.bootstrap.first_start import DATABASE_FILE, key_encryption_key, prepare_directory
    from authsvc.core.errors import AuthsvcError, Unavailable
    from authsvc.storage.data_directory import data_directory
    from authsvc.storage.sql.directory_lock import DataDirectoryLock
    from authsvc.storage.sql.opening import migrate as bring_up

    directory = data_directory(os.environ)
    os.umask(0o077)  # the record is this user's alone
    try:
        is_file = not chosen.record.url.startswith("postgresql")
        if is_file:
            prepare_directory(directory)
        with DataDirectoryLock(directory) if is_file else nullcontext():
            if is_file and chosen.keys.kek is None:
                # Before the tables: a record without the key that is generated beside it looks like one that lost it.
                key_encryption_key(chosen, directory)
            url = chosen.record.url or f"sqlite:///{directory / DATABASE_FILE}"
            before, after = bring_up(url, chosen.record.password_file)
    except Unavailable as error:
        raise of_error(error, Exit.UNREACHABLE) from None
    except AuthsvcError as error:
        raise of_error(error, Exit.WRONG_USE) from None
    show(form, {"schema": after, "before": before, "migrated": before != after})
