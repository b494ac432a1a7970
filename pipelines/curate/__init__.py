"""Curation: what landed in the lake becomes the frames worth learning from, each removal with its reason.

One step a file; `pipeline.py` holds the whole graph. Elements are fragments of Parquet files and paths, never
rows. The layer refuses to guess a split, to group near-duplicates transitively, and to read a table at any
version but the one that it was given.
"""
