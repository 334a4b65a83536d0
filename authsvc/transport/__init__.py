"""Transports: bytes in, bytes out, no rule of the product.

Owns: sockets, TLS, threads, HTTP/2 limits, drain. Imports `api`; knows rows only by name and shape.
"""
