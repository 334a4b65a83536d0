"""Use cases: the only place where the order of effects lives.

Owns: what happens, in which order, when a caller asks for a thing. May import: `core`, `state`, `ports`,
`config`. A use case takes values and a snapshot, and speaks to stores through ports; it knows no protobuf,
no gRPC and no HTTP.
"""
