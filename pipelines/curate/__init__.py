"""Curation: reduces what landed in the lake to the frames worth learning from; every removal has a reason.

One file per step; `pipeline.py` holds the whole graph. Elements are fragments of Parquet files and paths, never
rows. The layer refuses to guess a split, to group near-duplicates transitively, and to read a table at any
version other than the one given.
"""
