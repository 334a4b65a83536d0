"""`--local`: an administrator's verbs beside the record, without a service.

Owns: the principal of whoever can write the data directory. May import: `bootstrap`, `api`. Such a person can do
everything anyway; the audit log names the act as local.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from authsvc.cli.faults import Exit, of_error
from authsvc.cli.session import Target
from authsvc.cli.settings import load_config
from authsvc.core.errors import AuthsvcError

if TYPE_CHECKING:
    from authsvc.api.calls import Context
    from authsvc.api.handlers_admin import ClientAdminHandlers

DEADLINE_S = 10.0
_ACTOR = "service:local"

T = TypeVar("T")

Act = Callable[["ClientAdminHandlers", "Context"], Coroutine[Any, Any, T]]


def beside_the_record(config: Path | None, act: Act[T]) -> tuple[Target, T]:
    """Run `act` alone on the data directory; its answer, and where its service would listen."""
    from authsvc.bootstrap.first_start import prepare_directory
    from authsvc.bootstrap.serving_tls import certificates
    from authsvc.storage.data_directory import data_directory
    from authsvc.storage.sql.directory_lock import DataDirectoryLock

    chosen = load_config(config)
    directory = data_directory(os.environ)
    # PostgreSQL orders writers by itself, so there a running service is no hindrance.
    is_file = not chosen.record.url.startswith("postgresql")
    try:
        prepare_directory(directory)
        with DataDirectoryLock(directory) if is_file else nullcontext():
            answer = asyncio.run(_run(chosen, directory, act))
            shown = certificates(chosen, directory)
            certificate = "" if shown is None else shown(int(time.time())).anchor.decode()
    except AuthsvcError as error:
        raise of_error(error, Exit.REFUSED) from None
    return Target(chosen.server.listen, certificate), answer


async def _run(config: Any, directory: Path, act: Act[T]) -> T:
    from authsvc.api.calls import Call, Context
    from authsvc.api.handlers_admin import ClientAdminHandlers
    from authsvc.api.pages import PageTokens
    from authsvc.bootstrap.foundation import lay_foundation
    from authsvc.core.clients import Client
    from authsvc.core.roles_builtin import SERVICE_PERMISSIONS
    from authsvc.usecases.principals import Principal

    # The act is in the audit log of the record; standard output is for the command's own answer.
    quiet = replace(config, audit=replace(config.audit, stdout=False))
    found = lay_foundation(quiet, directory)
    try:
        call = Call("local")
        context = Context(call, found.clock.now(), time.monotonic() + DEADLINE_S)
        context.principal = Principal(_ACTOR, Client("local"), SERVICE_PERMISSIONS)
        context.snapshot = found.tail.current
        pages = PageTokens(found.record.secret("page-tokens"))
        return await act(ClientAdminHandlers(found.clients, pages), context)
    finally:
        await asyncio.to_thread(found.close)
