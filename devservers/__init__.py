"""Servers for tests, the demo and a laptop: brokers, a local certificate authority, a static file server.

Code that runs on a vehicle or in the cloud does not import this package.
"""
