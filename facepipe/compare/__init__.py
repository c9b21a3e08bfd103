"""Runs beside each other: differences on the same frames, with intervals, as a table, as text, and as a page."""

from facepipe.compare.formats import to_csv, to_json, to_latex
from facepipe.compare.page import write_comparison
from facepipe.compare.paired import Comparison, Difference, Row, compare_runs

__all__ = ["Comparison", "Difference", "Row", "compare_runs", "to_csv", "to_json", "to_latex", "write_comparison"]
