"""A fake authsvc for tests: a small real service in the test's own process.

Owns: `FakeAuthsvc`; the pytest fixture `authsvc` is one of it (module `authsvc_client_pytest`). May import:
everything of this package and, by the extra `testing`, the service's policy and limit rules. It speaks gRPC on
loopback, signs real tokens, decides by a real policy and counts real limits, so nothing of the code under test is
patched.
"""

try:
    from authsvc_client.testing.fake import FakeAuthsvc
except ModuleNotFoundError as missing:
    if (missing.name or "").startswith("authsvc"):
        raise
    raise ImportError(
        f"the fake decides as the service does and lacks `{missing.name}`: pip install 'authsvc-client[testing]'"
    ) from missing

__all__ = ["FakeAuthsvc"]
