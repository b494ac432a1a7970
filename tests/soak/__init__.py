"""A long run of the real processes that fails when anything grows: `make soak`."""
