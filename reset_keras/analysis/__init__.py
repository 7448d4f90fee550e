"""What came out of a run: its table and its report."""

from reset_keras.analysis.report import write_report
from reset_keras.analysis.table import print_table

__all__ = ["print_table", "write_report"]
