"""KeyAdminService, ClientAdminService and PolicyAdminService.

Owns: one method an RPC. May import: `core`, `usecases`, `v1`, `api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authsvc.api import convert, convert_admin
from authsvc.api.pages import PageTokens, page_size
from authsvc.core import values
from authsvc.core.errors import InvalidRequest
from authsvc.core.values import Revision
from authsvc.v1 import client_admin_pb2, key_admin_pb2, policy_admin_pb2

if TYPE_CHECKING:
    from authsvc.api.calls import Context
    from authsvc.usecases.clients import Clients
    from authsvc.usecases.keys import Keys
    from authsvc.usecases.policies import Policies
    from authsvc.usecases.propagation import Propagation


class KeyAdminHandlers:
    """KeyAdminService."""

    def __init__(self, keys: Keys, propagation: Propagation, pages: PageTokens) -> None:
        self._keys = keys
        self._propagation = propagation
        self._pages = pages

    def list_keys(self, request: key_admin_pb2.ListKeysRequest, context: Context) -> key_admin_pb2.ListKeysResponse:
        """Every key, newest first; the number of keys is bounded, so a page is a slice."""
        size = page_size(request.page_size)
        after = self._pages.open(request.page_token, "keys")
        ordered = sorted(context.snapshot.keys.values(), key=lambda key: (-key.create_time, key.kid))
        start = (
            0 if after is None else next((i + 1 for i, key in enumerate(ordered) if key.kid == after[0]), len(ordered))
        )
        page = ordered[start : start + size]
        more = (page[-1].kid,) if start + size < len(ordered) else None
        return key_admin_pb2.ListKeysResponse(
            keys=[convert_admin.key_message(key) for key in page], next_page_token=self._pages.seal(more, "keys")
        )

    async def rotate_key(
        self, request: key_admin_pb2.RotateKeyRequest, context: Context
    ) -> key_admin_pb2.RotateKeyResponse:
        """Activate the standby, publish another."""
        rotated = await self._keys.rotate(
            context.snapshot,
            algorithm=convert_admin.algorithm(request.algorithm),
            force=request.force,
            actor=context.caller.subject,
            now=context.now,
            deadline=context.deadline,
        )
        return key_admin_pb2.RotateKeyResponse(
            active=convert_admin.key_message(rotated.active),
            standby=None if rotated.standby is None else convert_admin.key_message(rotated.standby),
            retiring=None if rotated.retiring is None else convert_admin.key_message(rotated.retiring),
            revision=str(rotated.revision),
        )

    async def revoke_key(
        self, request: key_admin_pb2.RevokeKeyRequest, context: Context
    ) -> key_admin_pb2.RevokeKeyResponse:
        """Withdraw a key or all of them."""
        wanted = convert_admin.key_revocation(request)
        revoked = await self._keys.revoke(
            context.snapshot,
            kid=wanted.kid,
            reason=wanted.reason,
            all_keys=wanted.all_keys,
            all_tokens=wanted.all_tokens,
            dry_run=wanted.dry_run,
            actor=context.caller.subject,
            now=context.now,
            deadline=context.deadline,
        )
        response = key_admin_pb2.RevokeKeyResponse(
            revoked_kids=revoked.kids,
            active_kid=revoked.active_kid,
            watchers=revoked.spread.watchers,
            acknowledged=revoked.spread.acknowledged,
            revision=str(revoked.revision),
        )
        convert.put_time(response, "not_before", revoked.not_before)
        convert.put_time(response, "offline_until", revoked.offline_until)
        return response

    async def get_propagation(
        self, request: key_admin_pb2.GetPropagationRequest, context: Context
    ) -> key_admin_pb2.GetPropagationResponse:
        """Who holds a revision, replica by replica."""
        snapshot = context.snapshot
        holding = Revision(snapshot.revision.record, *snapshot.keys_version)
        if request.holding:
            holding = Revision.parse(request.holding, "holding")
        if holding.record != snapshot.revision.record:
            raise InvalidRequest.of("holding", "is a revision of another record")
        found = await self._propagation.replicas()
        return key_admin_pb2.GetPropagationResponse(
            replicas=[convert_admin.replica_message(replica, holding) for replica in found], holding=str(holding)
        )


class ClientAdminHandlers:
    """ClientAdminService."""

    def __init__(self, clients: Clients, pages: PageTokens) -> None:
        self._clients = clients
        self._pages = pages

    async def create_client(
        self, request: client_admin_pb2.CreateClientRequest, context: Context
    ) -> client_admin_pb2.CreateClientResponse:
        """Make a client and its first secret."""
        client, roles = convert_admin.new_client(request, context.now)
        made = await self._clients.create(
            context.caller,
            client,
            roles,
            now=context.now,
            deadline=context.deadline,
        )
        held = await self._clients.roles_of([made.client.client_id])
        return client_admin_pb2.CreateClientResponse(
            client=convert_admin.client_message(made.client, held[made.client.client_id], context.now),
            client_secret=made.client_secret,
            revision=str(made.revision),
        )

    async def list_clients(
        self, request: client_admin_pb2.ListClientsRequest, context: Context
    ) -> client_admin_pb2.ListClientsResponse:
        """The clients by id."""
        after = self._pages.open(request.page_token, "clients")
        page = await self._clients.page(after, page_size(request.page_size))
        held = await self._clients.roles_of([client.client_id for client in page.items])
        return client_admin_pb2.ListClientsResponse(
            clients=[
                convert_admin.client_message(client, held[client.client_id], context.now) for client in page.items
            ],
            next_page_token=self._pages.seal(page.next_after, "clients"),
            revision=str(page.revision),
        )

    async def rotate_client_secret(
        self, request: client_admin_pb2.RotateClientSecretRequest, context: Context
    ) -> client_admin_pb2.RotateClientSecretResponse:
        """A new secret; the one before lives on for a while."""
        client_id, overlap = convert_admin.rotation(request)
        made = await self._clients.rotate_secret(
            context.caller, client_id, overlap=overlap, now=context.now, deadline=context.deadline
        )
        return convert_admin.new_secret(made)


class PolicyAdminHandlers:
    """PolicyAdminService."""

    def __init__(self, policies: Policies, pages: PageTokens) -> None:
        self._policies = policies
        self._pages = pages

    async def apply_policy(
        self, request: policy_admin_pb2.ApplyPolicyRequest, context: Context
    ) -> policy_admin_pb2.ApplyPolicyResponse:
        """Check whole, test, put in force."""
        applied = await self._policies.apply(
            context.snapshot,
            context.caller,
            _policy_text(request),
            dry_run=request.dry_run,
            expected_revision=values.plain(request.expected_revision, "expected_revision", empty=True),
            now=context.now,
            deadline=context.deadline,
        )
        return policy_admin_pb2.ApplyPolicyResponse(
            policy_revision=applied.policy_revision,
            tests_passed=applied.tests_passed,
            revision=str(applied.revision),
        )

    def get_policy(
        self, _request: policy_admin_pb2.GetPolicyRequest, context: Context
    ) -> policy_admin_pb2.GetPolicyResponse:
        """The policy in force in this call's snapshot."""
        found = context.snapshot.policy_record
        response = policy_admin_pb2.GetPolicyResponse(policy=found.text, policy_revision=found.policy_revision)
        convert.put_time(response, "apply_time", found.apply_time or None)
        return response

    async def grant_role(
        self, request: policy_admin_pb2.GrantRoleRequest, context: Context
    ) -> policy_admin_pb2.GrantRoleResponse:
        """Bind a role to a subject."""
        granted = await self._policies.grant(
            context.snapshot,
            context.caller,
            convert_admin.grant(request),
            now=context.now,
            deadline=context.deadline,
        )
        return policy_admin_pb2.GrantRoleResponse(
            binding=convert_admin.binding_message(granted.binding), revision=str(granted.revision)
        )

    async def revoke_role(
        self, request: policy_admin_pb2.RevokeRoleRequest, context: Context
    ) -> policy_admin_pb2.RevokeRoleResponse:
        """Take a binding away."""
        revision = await self._policies.revoke(
            context.caller,
            convert_admin.binding_id(request.binding_id),
            now=context.now,
            deadline=context.deadline,
        )
        return policy_admin_pb2.RevokeRoleResponse(revision=str(revision))

    async def list_role_bindings(
        self, request: policy_admin_pb2.ListRoleBindingsRequest, _context: Context
    ) -> policy_admin_pb2.ListRoleBindingsResponse:
        """Bindings by subject; filters are exact."""
        subject, role, tenant = convert_admin.binding_filters(request)
        listing = ("bindings", subject, role, tenant)
        page = await self._policies.page(
            self._pages.open(request.page_token, *listing),
            page_size(request.page_size),
            subject=subject,
            role=role,
            tenant=tenant,
        )
        return policy_admin_pb2.ListRoleBindingsResponse(
            bindings=[convert_admin.binding_message(found) for found in page.items],
            next_page_token=self._pages.seal(page.next_after, *listing),
            revision=str(page.revision),
        )


def _policy_text(request: policy_admin_pb2.ApplyPolicyRequest) -> str:
    if not request.policy:
        raise InvalidRequest.of("policy", "is required")
    return request.policy
