"""The search: Algorithms 1 and 2 of arXiv 2506.10139, joint proposals, and labelers without a search."""
