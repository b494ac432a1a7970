"""Speed beside the raw limit and a peer, in one run: `make bench`. Nothing here is part of the product."""
