"""Generated from protos/authsvc/v1 by `make protos`; edit nothing here."""
