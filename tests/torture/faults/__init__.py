"""One module a family of faults; each names its faults in `FAULTS`."""
