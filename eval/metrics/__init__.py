"""Metrics as `evaluate` modules; they run offline (`evaluate.load("eval/metrics/label_agreement.py")` works too)."""
