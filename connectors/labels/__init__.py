"""Annotation backends, behind one port."""
