"""Results and adapters for others: exports, cards, the hub."""
