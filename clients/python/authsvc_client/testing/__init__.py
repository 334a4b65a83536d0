"""A fake authsvc for tests: a small real service in the test's own process.

Owns: `FakeAuthsvc`; the pytest fixture `authsvc` is one of it (module `authsvc_client_pytest`). May import:
everything of this package and, by the extra `testing`, the service's policy and limit rules. It speaks gRPC on
loopback, signs real tokens, decides by a real policy and counts real limits, so nothing of the code under test is
patched.
"""

from authsvc_client.testing.fake import FakeAuthsvc

__all__ = ["FakeAuthsvc"]
