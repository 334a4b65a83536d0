"""`authsvc demo`: the main job, seen on one screen.

Owns: the steps. On a service of its own it shows everything; on one that was given it makes a client of its own and
never rotates, revokes or kills.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from authsvc.cli.options import AddressOption, CredentialsOption, FormOption
from authsvc.cli.output import Form

if TYPE_CHECKING:
    from authsvc.cli.child import Child
    from authsvc.cli.session import Session, Target
    from authsvc.cli.shop import Shop
    from authsvc.cli.steps import Answer, Walk

POLICY = """\
version: 1
permissions: {"orders:read": {}, "orders:refund": {}}
roles:
  clerk: {allow: ["orders:read"]}
bindings:
  - {subject: "client:shop", role: clerk}
routes:
  - {match: {method: GET, path: "/orders/{id}"}, permission: "orders:read", resource: "orders/{id}", audience: orders}
  - {match: {method: DELETE, path: "/orders/{id}"}, permission: "orders:refund", audience: orders}
limits:
  per_subject: {domain: shop, match: {subject: "*"}, rate: 3/1m}
  per_path: {domain: shop, match: {path: "*"}, rate: 100/1m}
tests:
  - {subject: "client:shop", permission: "orders:read", resource: "orders/7", expect: allow}
  - {subject: "client:shop", permission: "orders:refund", resource: "orders/7", expect: deny}
"""
SHOP = "shop"
_EDGE_TIMEOUT_S = 5.0


def demo(
    envoy: Annotated[bool, typer.Option("--envoy/--no-envoy", help="Show the part with a real Envoy.")] = True,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Walk through the main job, each step with its answer and its time.

    It starts a throw-away service of its own. With --address or --credentials it uses that service instead, with a
    client of its own, and never rotates, revokes or kills. Exit code 1 where a step is not as it should be.
    """
    from authsvc.cli.faults import Exit
    from authsvc.cli.steps import Walk

    walk = Walk(form)
    if address or credentials is not None:
        from authsvc.cli.session import find_target

        given_service(walk, find_target(address, credentials))
    else:
        own_service(walk, envoy=envoy)
    walk.finish()
    if not walk.ok:
        raise typer.Exit(Exit.REFUSED)


def given_service(walk: Walk, target: Target) -> None:
    """What can be shown on a service that others use; its policy decides the checks, so any answer is right."""
    from authsvc.cli.session import Session
    from authsvc.cli.shop import READ, Shop
    from authsvc.cli.steps import Answer

    walk.title(f"authsvc demo on {target.address}: nothing but a client of its own is changed")
    with Session(target) as session:
        shop = Shop(session, f"demo-{secrets.token_hex(4)}")
        if not walk.step("create a client", shop.create):
            return
        walk.step("issue a token", shop.issue)
        walk.step("verify it", shop.verify)
        walk.step("verify what is no token", lambda: shop.verify("no-token", refused_as="token_malformed"))
        walk.step("check a permission nobody gave", lambda: _answered(shop.check(READ, expected="")))
        walk.step("consume from a limit", lambda: Answer(True, "admitted" if shop.consume().allowed else "refused"))
        walk.step("authorize in one call", lambda: _answered(shop.authorize(expected="")))
    walk.title(f"the client {shop.subject} stays: this release cannot delete one", style="dim")


def _answered(answer: Answer) -> Answer:
    return answer._replace(ok=True)


def own_service(walk: Walk, *, envoy: bool) -> None:
    """The whole walk, on a service that is gone afterwards."""
    from authsvc.cli.child import throw_away_service
    from authsvc.cli.session import Session, find_target
    from authsvc.cli.shop import Shop
    from authsvc.cli.steps import Answer

    walk.title("authsvc demo: a service of its own, gone afterwards")
    with throw_away_service() as child:
        walk.add("start a service", Answer(True, f"ready on {child.grpc}"), child.seconds * 1000)
        with Session(find_target("", child.credentials)) as session:
            shop = Shop(session, SHOP)
            walk.step("put a policy in force", lambda: apply_policy(session))
            walk.step("create a client", shop.create)
            _tokens_and_keys(walk, session, shop)
            _checks_and_limits(walk, shop)
            _revocations(walk, session, shop)
            if envoy:
                _through_envoy(walk, child, shop)


def _tokens_and_keys(walk: Walk, session: Session, shop: Shop) -> None:
    walk.step("issue a token", shop.issue)
    walk.step("verify it", shop.verify)
    walk.step("rotate the key", lambda: _rotate(session))
    walk.step("verify the old token still", shop.verify)
    walk.step("issue a new token", shop.issue)
    walk.step("verify the new token", shop.verify)


def _checks_and_limits(walk: Walk, shop: Shop) -> None:
    from authsvc.cli.shop import READ, REFUND

    walk.step("check what is allowed", lambda: shop.check(READ, expected="allowed"))
    walk.step("check what is not", lambda: shop.check(REFUND, expected="no_binding"))
    walk.step("consume until refused", shop.consume_until_refused)
    walk.step("authorize: all three in one call", lambda: shop.authorize(expected="allowed"))


def _revocations(walk: Walk, session: Session, shop: Shop) -> None:
    walk.step("revoke the token", shop.revoke_token)
    walk.step("verify the revoked token", lambda: shop.verify(refused_as="token_revoked"))
    walk.step("issue another, then revoke its key", lambda: _revoke_key(session, shop))
    shop.forget()
    walk.step("verify a token of that key", lambda: shop.verify(refused_as="token_key_revoked"))


def _through_envoy(walk: Walk, child: Child, shop: Shop) -> None:
    """A real Envoy in front of a tiny service, asking this service about each request."""
    from authsvc.cli.demo_envoy import HOW_TO_GET, EnvoyFault, EnvoySetup, echo_upstream, find_envoy, running_envoy
    from authsvc.cli.steps import Answer

    if find_envoy() is None:
        walk.add("start a real Envoy", Answer(False, HOW_TO_GET), 0.0)
        return
    with ExitStack() as stack:
        started = []

        def start() -> Answer:
            upstream = stack.enter_context(echo_upstream())
            try:
                started.append(stack.enter_context(running_envoy(EnvoySetup(child.grpc, upstream))))
            except EnvoyFault as fault:
                return Answer(False, str(fault))
            return Answer(True, f"ready on {started[0].url}, asking {child.grpc}")

        if not walk.step("start a real Envoy", start):
            return
        url = started[0].url
        walk.step("issue a fresh token", shop.issue)
        walk.step("GET /orders/7 through Envoy", lambda: _http(url, "GET", shop.access_token, 200))
        walk.step("DELETE /orders/7 through Envoy", lambda: _http(url, "DELETE", shop.access_token, 403))
        walk.step("revoke the token", shop.revoke_token)
        walk.step("GET with the revoked token", lambda: _http(url, "GET", shop.access_token, 401))
        child.kill()
        walk.step("GET with the service killed", lambda: _http(url, "GET", shop.access_token, 503))


def _http(url: str, method: str, token: str, expected: int) -> Answer:
    import http.client
    from urllib.parse import urlsplit

    from authsvc.cli.steps import Answer

    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_EDGE_TIMEOUT_S)
    try:
        connection.request(method, "/orders/7", headers={"Authorization": f"Bearer {token}"})
        status = connection.getresponse().status
    except OSError as error:
        return Answer(False, f"no answer: {error.strerror or error}")
    finally:
        connection.close()
    return Answer(status == expected, f"{status} {http.client.responses.get(status, '')}")


def apply_policy(session: Session) -> Answer:
    """Put the demo's policy in force."""
    from authsvc.cli.steps import Answer
    from authsvc.v1 import policy_admin_pb2

    request = policy_admin_pb2.ApplyPolicyRequest(policy=POLICY)
    answer = session.call("PolicyAdminService/ApplyPolicy", request, policy_admin_pb2.ApplyPolicyResponse)
    return Answer(answer.tests_passed == 2, f"{answer.tests_passed} of its tests passed, revision {answer.revision}")


def _rotate(session: Session) -> Answer:
    from authsvc.cli.steps import Answer
    from authsvc.v1 import key_admin_pb2

    request = key_admin_pb2.RotateKeyRequest(force=True)
    answer = session.call("KeyAdminService/RotateKey", request, key_admin_pb2.RotateKeyResponse)
    kids = [key.kid[:8] for key in (answer.active, answer.retiring, answer.standby)]
    return Answer(len(set(kids)) == 3, "{} signs, {} verifies still, {} is published".format(*kids))


def _revoke_key(session: Session, shop: Shop) -> Answer:
    from authsvc.cli.steps import Answer
    from authsvc.v1 import key_admin_pb2

    shop.issue()
    kids = key_admin_pb2.ListKeysRequest()
    listed = session.call("KeyAdminService/ListKeys", kids, key_admin_pb2.ListKeysResponse)
    active = next(key.kid for key in listed.keys if key.state == key_admin_pb2.KEY_STATE_ACTIVE)
    request = key_admin_pb2.RevokeKeyRequest(kid=active, reason="shown by the demo")
    answer = session.call("KeyAdminService/RevokeKey", request, key_admin_pb2.RevokeKeyResponse)
    return Answer(
        list(answer.revoked_kids) == [active], f"{active[:8]} is withdrawn, {answer.active_kid[:8]} signs now"
    )
