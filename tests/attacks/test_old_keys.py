"""An old row of a signing key, put back in the database to undo a revocation, is as broken as a forged one."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from authsvc.core.keys import KeyState
from authsvc.v1 import key_admin_pb2, token_pb2
from tests.support.embedded import embedded


@pytest.mark.standard("K12", "K9")
def test_a_revoked_key_that_is_put_back_stays_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with embedded(data) as service:
        token = service.token("shop", service.create_client("shop", audience=["orders"]))
        (active,) = (k for k, key in service.foundation.tail.current.keys.items() if key.state is KeyState.ACTIVE)
        with sqlite3.connect(data / "authsvc.db") as database:
            (old,) = database.execute("select body from signing_key where kid = ?", (active,)).fetchone()
        wanted = key_admin_pb2.RevokeKeyRequest(kid=active, reason="leaked")
        service.call("KeyAdminService/RevokeKey", wanted, service.admin())
    with sqlite3.connect(data / "authsvc.db") as database:
        database.execute("update signing_key set body = ? where kid = ?", (old, active))
    database.close()
    with embedded(data) as service:
        asked = token_pb2.VerifyTokenRequest(token=token, audience=["orders"])
        assert not service.call("TokenService/VerifyToken", asked, service.admin()).valid
        assert service.foundation.tail.current.broken_kids == {active}
        kids = {key["kid"] for key in json.loads(service.call("KeyService/GetJwks", _jwks()).jwks)["keys"]}
        assert active not in kids


def _jwks() -> object:
    from authsvc.v1 import key_pb2  # noqa: PLC0415 - only here

    return key_pb2.GetJwksRequest()
