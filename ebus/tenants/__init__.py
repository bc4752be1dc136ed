"""Tenants that come and go at run time: a registry beside the data, and an account of changes.

`registry` keeps them, in a SQLite file of its own, `model` is what it says of them, `merging` makes
them a part of the config that is served, `claim` says who may change the registry directly.
"""
