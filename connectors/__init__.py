"""The outside world behind small ports: brokers, the lake, blobs, frame sources, label desks.

This layer refuses to decide anything: it does not judge a record, choose a sample or start a model. It moves
bytes, says exactly what became of them, and turns every error of a client library into one of
`foundation.errors`. Importing the package loads no client library; each part loads its own.
"""
