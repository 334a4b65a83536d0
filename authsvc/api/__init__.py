"""The API: proto messages to core values and back, one row per RPC.

Owns: the method table, what stands around a row, the handlers, the wire's errors, the HTTP application.
Imports `core`, `state`, `ports`, `usecases` and protobuf; never a transport.
"""
