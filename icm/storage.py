"""Documented place of `ICMStorage` for imports; it lives in `icm.results`."""

from icm.results.folder import ICMStorage
from icm.results.format import ICMResult, LabeledExample, read_result, write_result

__all__ = ["ICMResult", "ICMStorage", "LabeledExample", "read_result", "write_result"]
