"""Sensors and recordings of them, behind one port."""
