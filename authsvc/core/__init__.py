"""The pure core: values and `now` in, values out.

Owns the rules of tokens, keys, policy, limits and audit. Imports no clock, randomness, environment,
logging, I/O or protobuf. One noun a file.
"""
