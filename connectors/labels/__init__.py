"""Annotation backends, behind one interface."""
