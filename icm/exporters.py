"""Documented place of `ICMExporter` for imports; it lives in `icm.publish`."""

from icm.publish.exporters import Export, ICMExporter

__all__ = ["Export", "ICMExporter"]
