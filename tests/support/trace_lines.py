"""A line of each kind that a trace has, as it is on disk."""

from icm.results.trace import Cost, Decision, End, FreshOrder, Start

LINES = {
    Start: '{"restart": 0, "batch": 1, "type": "start", "iteration": 0, "changes": {"a": "True"}, "accepted": true, '
    '"utility": -3.5, "preferences": {"a": [-0.1, -2.4]}}',
    FreshOrder: '{"restart": 0, "batch": 1, "type": "order", "iteration": 32, "changes": {}, "accepted": false, '
    '"delta": 0.0, "utility": -3.5, "labelled": 1, "preferences": {"a": [-0.1, -2.4]}}',
    Decision: '{"restart": 0, "batch": 1, "type": "decision", "iteration": 33, "example": "b", "previous": null, '
    '"proposal": "False", "accepted": true, "changes": {"b": "False"}, "delta": 0.25, "utility": -3.25, '
    '"inconsistencies": 2, "temperature": 0.5, "labelled": 2}',
    Cost: '{"type": "usage", "prompts": 3, "prompt_tokens": 40, "computed_tokens": 20, "generated_tokens": 0, '
    '"failures": 0, "seconds": 1.5, "plain_tokens": 40, "unchanged_tokens": 7}',
    End: '{"restart": 0, "batch": 1, "type": "end", "iterations": 33, "utility": null, "labels": {"a": "True"}, '
    '"log_odds": {"a": 2.3}}',
}
