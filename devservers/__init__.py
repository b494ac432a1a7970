"""Servers for tests, the demo and a laptop: brokers, a local certificate authority, a static file server.

Nothing that runs on a vehicle or in the cloud imports this package.
"""
