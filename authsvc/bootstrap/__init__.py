"""The composition root: builds the service from its configuration, starts it and stops it.

The only package that may import everything.
"""
